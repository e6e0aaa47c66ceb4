"""Issuers that users come from: what is read of the file, what is refused, and with what words."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from auth_service.clock import utc_now
from auth_service.config.loading import Settings
from auth_service.errors import ConfigError
from auth_service.serving.migration import old_issuers
from auth_service.tokens.foreign_keys import ALGORITHMS

SECRET = "django-insecure-3f0c9a-not-used-anywhere-else-0123456789"
END = 'until = 2027-03-01T00:00:00Z\nclaims = { kind = "a" }\nuser = "id"\n'
REALM = f'[[migrate_from]]\nissuer = "https://realm.test"\njwks_url = "https://realm.test/c"\n{END}'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "migrate.toml"


def _secret(folder: Path, text: str = SECRET, mode: int = 0o600) -> Path:
    path = folder / "secret"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_issuers_are_those_of_the_file(path: Path, tmp_path: Path) -> None:
    """With their defaults; the file of a shared key may end with a new line."""
    path.write_text(
        f"""{REALM}
        audience = "account"
        [[migrate_from]]
        issuer = "django"
        without_iss = true
        secret_file = "{_secret(tmp_path, SECRET + chr(10))}"
        claims = {{ token_type = ["refresh", "access"], is_anonymous = false }}
        user_claim = "user_id"
        user = "identifier"
        prefix = "django:"
        until = 2027-03-01T02:00:00+02:00
        max_age = "90d"
        """
    )
    (realm, django), refreshes = old_issuers(Settings(migrate_from_file=path), utc_now)
    assert (realm.name, realm.names_itself, realm.user_by_id) == ("https://realm.test", True, True)
    assert realm.rules.audiences == frozenset(["account"])
    assert realm.rules.algorithms == frozenset(ALGORITHMS)
    assert realm.rules.max_age == timedelta(days=30)
    assert realm.claims == {"kind": ("a",)}
    assert (realm.shared_key, realm.keys.known) == (None, False)
    assert (django.names_itself, django.user_claim, django.prefix) == (False, "user_id", "django:")
    assert django.claims == {"token_type": ("refresh", "access"), "is_anonymous": (False,)}
    assert django.rules.audiences is None
    assert django.rules.algorithms == frozenset(["HS256"])
    assert django.until == realm.until == datetime(2027, 3, 1, tzinfo=UTC)
    assert django.shared_key is not None
    assert django.shared_key.key == SECRET.encode()
    assert SECRET not in repr(django)
    assert [each.name for each in refreshes] == ["https://realm.test"]


def test_without_the_setting_there_is_none() -> None:
    """Nothing is traded."""
    assert old_issuers(Settings(), utc_now) == ([], [])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x", "is not TOML"),
        ("[[issuer]]", "issuer"),
        (f'[[migrate_from]]\njwks_url = "https://a"\n{END}', "migrate_from.1.issuer"),
        (f'[[migrate_from]]\nissuer = "a"\n{END}', "needs one of jwks_file"),
        (f'{REALM}jwks_file = "/a"', "needs one of jwks_file"),
        (REALM.replace("https://realm.test/c", "http://realm.test/c"), "is not https"),
        (REALM.replace("until = 2027-03-01T00:00:00Z", ""), "until"),
        (REALM.replace("T00:00:00Z", "T00:00:00"), "timezone"),
        (REALM.replace('claims = { kind = "a" }', ""), "claims"),
        (REALM.replace('{ kind = "a" }', "{}"), "claims"),
        (REALM.replace('{ kind = "a" }', "{ kind = 1 }"), "claims"),
        (REALM.replace('{ kind = "a" }', "{ kind = [] }"), "claims"),
        (REALM.replace('user = "id"', 'user = "mail"'), "user"),
        (REALM.replace('user = "id"', ""), "user"),
        (f'{REALM}prefix = "a:"', 'goes with user = "identifier"'),
        (f'{REALM}algorithms = ["HS256"]', "the algorithm 'HS256'"),
        (f'{REALM}algorithms = ["none"]', "the algorithm 'none'"),
        (f"{REALM}algorithms = []", "algorithms"),
        (REALM * 2, "twice"),
        (f"{REALM}without_iss = true\n{REALM.replace('realm', 'b')}without_iss = true", "apart"),
        (f'{REALM}ca_file = "/nowhere/ca.crt"', "ca_file of https://realm.test"),
        (REALM.replace('jwks_url = "https://realm.test/c"', 'jwks_file = "/nowhere"'), "jwks_file"),
    ],
    ids=range(22),
)
def test_a_wrong_file_is_refused_with_what_is_wrong(path: Path, text: str, told: str) -> None:
    """The error names the setting, the file and the key in it."""
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        old_issuers(Settings(migrate_from_file=path), utc_now)
    assert "AUTH_MIGRATE_FROM_FILE" in caught.value.text
    assert told in caught.value.text


@pytest.mark.parametrize(
    ("text", "mode", "told"),
    [(SECRET, 0o644, "chmod 600"), ("short\n", 0o600, "fewer than 32 bytes")],
    ids=["open", "short"],
)
def test_a_shared_key_is_long_and_private(
    path: Path, tmp_path: Path, text: str, mode: int, told: str
) -> None:
    """The error does not quote it."""
    file = _secret(tmp_path, text, mode)
    path.write_text(f'[[migrate_from]]\nissuer = "django"\nsecret_file = "{file}"\n{END}')
    with pytest.raises(ConfigError) as caught:
        old_issuers(Settings(migrate_from_file=path), utc_now)
    assert told in caught.value.text
    assert text.strip() not in caught.value.text


def test_a_missing_file_is_named(path: Path) -> None:
    """When the settings are read, before anything is started."""
    with pytest.raises(ConfigError, match="AUTH_MIGRATE_FROM_FILE"):
        Settings(migrate_from_file=path).check_files()
