"""The wiring: policies and keys as the settings say."""

from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from auth_service.config.loading import Settings
from auth_service.core.key_policy import KeyPolicy
from auth_service.core.passwords import DEFAULT_PROFILE, PROFILES
from auth_service.core.session_policy import SessionPolicy
from auth_service.core.throttle import Rate, ThrottlePolicy
from auth_service.errors import ConfigError, WeakPassword
from auth_service.serving.wiring import (
    embedded_directory,
    key_policy,
    master_key,
    password_hasher,
    password_policy,
    session_policy,
    throttle_policy,
)

SECOND = timedelta(seconds=1)
KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"


def test_every_rule_of_sessions_follows_a_setting() -> None:
    """No field keeps its default if all settings differ from theirs."""
    policy = session_policy(
        Settings(
            issuer="https://other.test",
            default_audience=("other",),
            api_audience="api",
            access_token_ttl=timedelta(minutes=7),
            refresh_token_idle_ttl=timedelta(days=2),
            refresh_token_absolute_ttl=timedelta(days=3),
            refresh_grace=timedelta(seconds=4),
            clock_skew=timedelta(seconds=8),
        )
    )
    default = SessionPolicy(issuer="", default_audience=())
    same = [
        field.name
        for field in fields(policy)
        if getattr(policy, field.name) == getattr(default, field.name)
    ]
    assert same == []


def test_the_rules_of_the_throttle_follow_the_settings() -> None:
    """All networks have a multiple of the attempts of one; a source may have no limit."""
    settings = Settings(
        login_burst=5,
        login_refill=6 * SECOND,
        login_networks=3,
        login_source_burst=7,
        login_source_refill=8 * SECOND,
    )
    policy = throttle_policy(settings)
    assert policy == ThrottlePolicy(Rate(5, 6 * SECOND), 3, Rate(7, 8 * SECOND))
    assert policy.identifier == Rate(15, 2 * SECOND)
    assert throttle_policy(Settings()) == ThrottlePolicy()
    assert throttle_policy(Settings(login_source_burst=0)).source is None


def test_every_rule_of_keys_follows_a_setting() -> None:
    """A key is trusted for longer than the last token that it signed."""
    policy = key_policy(
        Settings(
            signing_algorithm="ES256",
            shared_key=KEY,  # type: ignore[arg-type]
            key_publish_lead=timedelta(minutes=9),
            key_rotation_interval=timedelta(days=9),
            access_token_ttl=timedelta(minutes=7),
        )
    )
    default = KeyPolicy()
    same = [
        field.name
        for field in fields(policy)
        if getattr(policy, field.name) == getattr(default, field.name)
    ]
    assert same == []
    assert policy.keep > timedelta(minutes=7)


async def test_the_hasher_has_the_cost_of_the_settings() -> None:
    """Commands and servers hash alike, so that neither has to rehash what the other wrote."""
    hasher = password_hasher(
        Settings(argon2_memory_kib=7168, argon2_time_cost=1, argon2_parallelism=2)
    )
    try:
        made = await hasher.hash("correct horse battery staple")
        assert "$m=7168,t=1,p=2$" in made
    finally:
        hasher.close()


@pytest.mark.parametrize(
    ("values", "cost"),
    [
        ({}, "m=19456,t=2,p=1"),
        ({"password_profile": "owasp-7mib"}, "m=7168,t=5,p=1"),
        ({"password_profile": "owasp-7mib", "argon2_time_cost": 1}, "m=7168,t=1,p=1"),
        ({"password_profile": "rfc9106-second", "argon2_memory_kib": 8192}, "m=8192,t=3,p=4"),
    ],
)
async def test_a_profile_sets_what_is_not_set_by_itself(values: dict[str, Any], cost: str) -> None:
    """The settings of each parameter go before it, as they did before there were profiles."""
    hasher = password_hasher(Settings(**values))
    try:
        assert f"${cost}$" in await hasher.hash("correct horse battery staple")
    finally:
        hasher.close()


def test_every_profile_is_a_value_of_its_setting() -> None:
    """And the default is the same."""
    field = Settings.model_fields["password_profile"]
    assert get_args(field.annotation) == tuple(PROFILES)
    assert field.default == DEFAULT_PROFILE


def test_the_policy_is_that_of_the_settings(tmp_path: Path) -> None:
    """Lengths, the operator's list, and the service's names, which are in its URLs."""
    file = tmp_path / "blocklist.txt"
    file.write_text("the operator's own entry")
    policy = password_policy(
        Settings(
            password_min_length=16,
            password_min_length_with_factor=9,
            password_blocklist_file=file,
            issuer="https://login.teashop.example",
            public_url="https://leaves.example",
        )
    )
    policy.check("nine char", second_factor=True)
    for weak in ("fifteen letters", "the operator's own entry", "login teashop leaves"):
        with pytest.raises(WeakPassword):
            policy.check(weak)


def test_the_embedded_directory_holds_the_generated_master_key(tmp_path: Path) -> None:
    """It is generated at the first use and read afterwards."""
    settings = Settings(embedded_dir=tmp_path / "data")
    assert embedded_directory(settings) == tmp_path / "data"
    first = master_key(settings)
    assert master_key(settings).refresh_token_key() == first.refresh_token_key()


def test_a_configured_database_needs_a_configured_master_key() -> None:
    """A generated one could be lost without the database."""
    with pytest.raises(ConfigError, match="AUTH_MASTER_KEY is missing"):
        master_key(Settings(database_url="postgresql://auth@db/auth"))  # type: ignore[arg-type]
