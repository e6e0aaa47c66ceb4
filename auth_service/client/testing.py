"""An issuer in the test's own process, for the tests of services that verify tokens.

    pytest_plugins = ["auth_service.client.testing"]  # in conftest.py

    def test_a_refund_needs_its_scope(auth_issuer: Issuer) -> None:
        app = create_app(verifier=auth_issuer.verifier)
        token = auth_issuer.token("ada", scope=["orders:read"])
        assert call(app, token).status == 403

The tokens are real and signed with a key made for the test, and the verifier is the one that
services use. There is no server and no network, and no other service accepts such a token.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from auth_service import base64url
from auth_service.models import Revocation, RevocationKind
from auth_service.tokens import jws
from auth_service.tokens.access import ACCESS_TOKEN_TYPE, AccessClaims, TokenVerifier, new_token_id
from auth_service.tokens.assurance import ONE_FACTOR
from auth_service.tokens.keys import KeyRing, generate_key
from auth_service.tokens.revocation import RevocationList, whole_second_after

__all__ = ["Issuer", "TestClock", "auth_issuer"]

_LONG = timedelta(days=3650)


class TestClock:
    """Stands still until the test moves it; starts at the real time, in whole seconds."""

    __test__ = False  # pytest must not collect it

    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, by: timedelta) -> None:
        """Let time pass."""
        self.now += by


class Issuer:
    """Issues access tokens with any claims, and revokes them."""

    def __init__(
        self, issuer: str = "https://auth.test", audience: str = "test", algorithm: str = "HS256"
    ) -> None:
        """`audience` is the audience of tokens by default; `algorithm` is that of the key."""
        self.issuer = issuer
        self.audience = audience
        self.clock = TestClock()
        self._key = generate_key(algorithm)
        self._revocations = RevocationList(self.clock)
        self.verifier = TokenVerifier(
            KeyRing([self._key]), self._revocations, issuer=issuer, clock=self.clock
        )

    @property
    def shared_key(self) -> str:
        """The HS256 key as in AUTH_SHARED_KEY; raises ValueError for another algorithm."""
        if not self._key.is_secret:
            raise ValueError(f"an issuer of {self._key.algorithm} has no shared key")
        return base64url.encode(self._key.secret)

    def token(
        self,
        subject: str = "user",
        *,
        scope: Iterable[str] = (),
        roles: Iterable[str] = (),
        lifetime: timedelta = timedelta(minutes=15),
        **claims: Any,
    ) -> str:
        """Return an access token (RFC 9068).

        `claims` replace claims by their registered names, such as `aud` or `exp`, or add others;
        None omits a claim.
        """
        now = int(self.clock().timestamp())
        usual: dict[str, Any] = {
            "iss": self.issuer,
            "sub": subject,
            "aud": [self.audience],
            "exp": now + int(lifetime.total_seconds()),
            "iat": now,
            "jti": new_token_id(),
            "sid": f"session-of-{subject}",
            "client_id": "test",
            "scope": " ".join(scope),
            "roles": list(roles),
            "auth_time": now,
            "amr": ["pwd"],
            "acr": ONE_FACTOR,
        }
        given = {name: value for name, value in (usual | claims).items() if value is not None}
        return jws.sign(given, self._key, ACCESS_TOKEN_TYPE)

    def claims(self, token: str) -> AccessClaims:
        """Return the claims of a token of this issuer, even if it is expired or revoked."""
        return self.verifier.authenticate(token)

    def revoke(self, token: str) -> None:
        """Revoke one token."""
        self._revoke(RevocationKind.TOKEN, self.claims(token).token_id)

    def revoke_session(self, token: str) -> None:
        """Revoke every token of the session that this token belongs to."""
        self._revoke(RevocationKind.SESSION, self.claims(token).session_id)

    def revoke_user(self, subject: str) -> None:
        """Revoke every token that a user has been issued so far."""
        self._revoke(RevocationKind.USER, subject, whole_second_after(self.clock()))

    def _revoke(
        self, kind: RevocationKind, target: str, issued_before: datetime | None = None
    ) -> None:
        self._revocations.add(Revocation(kind, target, self.clock() + _LONG, issued_before))


@pytest.fixture
def auth_issuer() -> Issuer:
    """An issuer for this test alone."""
    return Issuer()
