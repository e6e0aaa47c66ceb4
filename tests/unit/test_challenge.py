"""Challenges of logins: what they carry, and that only this service makes them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from auth_service.errors import InvalidCredentials
from auth_service.models import Session
from auth_service.tokens import jws
from auth_service.tokens.challenge import Challenges, Enrollment, LoginChallenge, LoginTerms
from auth_service.tokens.keys import MasterKey, SigningKey
from auth_service.tokens.refresh import RefreshTokens

ROOT = MasterKey(bytes(range(32)))
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
CHALLENGES = Challenges(ROOT, "https://auth.test")
FULL = LoginChallenge(
    id=uuid4(),
    user_id=uuid4(),
    terms=LoginTerms(("a", "b"), ("read",), "shop", "Ädas Telefon", "r-1", "t", uuid4()),
    amr=("pwd",),
    revoked_before=NOW,
    expires_at=(NOW + timedelta(minutes=5)).replace(microsecond=0),
    enrolls=True,
)
EMPTY = replace(FULL, terms=LoginTerms(), amr=(), revoked_before=None, enrolls=False)
ENROLLMENT = Enrollment(FULL.id, FULL.user_id, FULL.expires_at)


@pytest.mark.parametrize("challenge", [FULL, EMPTY], ids=["full", "empty"])
def test_a_challenge_comes_back_as_it_was(challenge: LoginChallenge) -> None:
    """Every term of the login, until it expires."""
    token = CHALLENGES.sign(challenge)
    assert CHALLENGES.read(token, NOW) == challenge
    with pytest.raises(InvalidCredentials):
        CHALLENGES.read(token, challenge.expires_at)


def test_a_challenge_may_name_many_audiences() -> None:
    """It is in no header, so the limit of access tokens is not its own."""
    terms = LoginTerms(tuple(f"{n}-".ljust(256, "é") for n in range(64)))
    challenge = replace(FULL, terms=terms)
    assert CHALLENGES.read(CHALLENGES.sign(challenge), NOW) == challenge


def test_challenges_and_enrollments_are_not_each_other() -> None:
    """Nor is a token of another issuer or root key one of them, or a refresh token."""
    challenge, enrollment = CHALLENGES.sign(FULL), CHALLENGES.sign_enrollment(ENROLLMENT)
    assert CHALLENGES.read_enrollment(enrollment, NOW) == ENROLLMENT
    session = Session(
        user_id=FULL.user_id, id=uuid4(), generation=0, seed=bytes(32), client_id="",
        device_label="", audience=(), scope=(), amr=(), auth_time=NOW, created_at=NOW,
        refreshed_at=NOW, refresh_expires_at=FULL.expires_at, expires_at=FULL.expires_at,
    )  # fmt: skip
    foreign: list[Any] = [
        enrollment,
        RefreshTokens(ROOT, "https://auth.test").current(session),
        Challenges(ROOT, "https://other.test").sign(FULL),
        Challenges(MasterKey(bytes(range(1, 33))), "https://auth.test").sign(FULL),
        challenge[:-1],
        "",
        "a.b.c",
    ]
    for token in foreign:
        with pytest.raises(InvalidCredentials):
            CHALLENGES.read(token, NOW)
    with pytest.raises(InvalidCredentials):
        CHALLENGES.read_enrollment(challenge, NOW)


def test_its_key_is_no_other_key() -> None:
    """A holder of the key of refresh tokens, or of a shared key, makes no challenge."""
    claims = jws.read_claims(CHALLENGES.sign(FULL).split(".")[1])
    for secret in (ROOT.refresh_token_key(), ROOT.enrollment_key()):
        key = SigningKey(kid="challenge", algorithm="HS256", secret=secret)
        with pytest.raises(InvalidCredentials):
            CHALLENGES.read(jws.sign(claims, key, "lc+jwt"), NOW)
    assert len({ROOT.refresh_token_key(), ROOT.enrollment_key(), ROOT.challenge_key()}) == 3


def test_each_enrollment_has_a_secret_of_its_own() -> None:
    """It follows from the root key and the id, and is not in the token."""
    secret = CHALLENGES.enrolled_secret(FULL.id)
    assert len(secret) == 20
    assert secret == CHALLENGES.enrolled_secret(FULL.id)
    other = Challenges(MasterKey(bytes(range(1, 33))), "https://auth.test")
    assert len({secret, CHALLENGES.enrolled_secret(uuid4()), other.enrolled_secret(FULL.id)}) == 3
