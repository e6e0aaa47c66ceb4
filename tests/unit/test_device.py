"""Device tokens: of a login, for one user, and good for nothing else."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from auth_service.errors import AuthError, InvalidGrant
from auth_service.tokens import jws
from auth_service.tokens.access import TokenVerifier
from auth_service.tokens.device import DEVICE_TOKEN_TYPE, DeviceTokens
from auth_service.tokens.keys import KeyRing, MasterKey, SigningKey
from auth_service.tokens.refresh import RefreshTokens
from auth_service.tokens.revocation import RevocationList
from tests.unit.test_refresh import EPOCH, ISSUER, MASTER, SESSION, START, TOKEN

TTL = timedelta(days=180)
DEVICES = DeviceTokens(MASTER, ISSUER, TTL)
DEVICE_TOKEN, EXPIRES_AT = DEVICES.of(SESSION)
KEY = SigningKey("device", "HS256", secret=MASTER.device_token_key())
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "sub": str(SESSION.user_id),
    "sid": str(SESSION.id),
    "iat": EPOCH,
    "exp": EPOCH + int(TTL.total_seconds()),
}


def test_it_follows_from_the_login_and_not_from_what_came_after() -> None:
    """The retry of a login gets the same one, byte for byte."""
    later = replace(SESSION, generation=9, refreshed_at=START + timedelta(days=1))
    assert DEVICES.of(later) == (DEVICE_TOKEN, START + TTL)
    assert jws.sign(CLAIMS, KEY, DEVICE_TOKEN_TYPE) == DEVICE_TOKEN
    claims = DEVICES.read(DEVICE_TOKEN)
    assert (claims.user_id, claims.session_id) == (SESSION.user_id, SESSION.id)
    assert (claims.issued_at, claims.expires_at) == (EPOCH, CLAIMS["exp"])


def test_a_lifetime_of_zero_makes_none() -> None:
    """As with AUTH_DEVICE_TOKEN_TTL=0."""
    assert DeviceTokens(MASTER, ISSUER, timedelta(0)).of(SESSION) == ("", None)


def numbered(_value: object) -> str:
    """Return the id of a test; tokens are long."""
    return "token"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b.c",
        TOKEN,
        DEVICE_TOKEN[:-1],
        DEVICE_TOKEN + "A",
        DEVICE_TOKEN.replace(".", "..", 1),
        jws.sign(CLAIMS, KEY, "rt+jwt"),
        jws.sign(CLAIMS, SigningKey("device", "HS256", secret=b"x" * 32), DEVICE_TOKEN_TYPE),
        jws.sign(CLAIMS, SigningKey("other", "HS256", secret=KEY.secret), DEVICE_TOKEN_TYPE),
        *(
            jws.sign(CLAIMS | {name: value}, KEY, DEVICE_TOKEN_TYPE)
            for name, value in [
                ("iss", "https://other.test"), ("sub", str(SESSION.id).upper() + "0"), ("sub", 1),
                ("sid", ""), ("sid", None), ("iat", "1"), ("exp", 1.5), ("exp", -1),
            ]
        ),
    ],
    ids=numbered,
)  # fmt: skip
def test_anything_else_is_refused(token: str) -> None:
    """A refresh token, a forged one, one of another service, and one out of form."""
    with pytest.raises(InvalidGrant):
        DEVICES.read(token)
    with pytest.raises(InvalidGrant):
        DeviceTokens(MasterKey(bytes(range(1, 33))), ISSUER, TTL).read(DEVICE_TOKEN)


def test_it_is_neither_a_refresh_token_nor_an_access_token() -> None:
    """It opens nothing, not even with its own key in the ring."""
    with pytest.raises(InvalidGrant):
        RefreshTokens(MASTER, ISSUER).read(DEVICE_TOKEN)
    verifier = TokenVerifier(
        KeyRing([KEY], "device"), RevocationList(lambda: START), issuer=ISSUER, clock=lambda: START
    )
    with pytest.raises(AuthError):
        verifier.verify(DEVICE_TOKEN)
