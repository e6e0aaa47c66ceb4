"""What a local verification costs, beside `jwt.decode` of PyJWT."""

import secrets
import time
from datetime import timedelta

import jwt

from auth_service import base64url
from auth_service.client import LocalVerifier
from auth_service.clock import utc_now
from auth_service.keys import KeyRing, shared_key
from auth_service.models import Revocation, RevocationKind
from auth_service.revocation import RevocationList
from auth_service.tokens import AccessClaims, TokenSigner, TokenVerifier
from benchmarks.figures import interleaved

REVOCATIONS = 100_000
ROUNDS = 15


def main() -> None:
    """Print the cost of a token seen before, and of one never seen."""
    secret = secrets.token_bytes(32)
    key = shared_key(secret)
    ring = KeyRing([key], key.kid)
    tokens = [_token(ring, number) for number in range(3000)]
    empty = LocalVerifier(issuer="bench", shared_key=base64url.encode(secret))
    revocations = RevocationList(utc_now)
    full = TokenVerifier(ring, revocations, issuer="bench", clock=utc_now)
    bare = TokenVerifier(ring, RevocationList(utc_now), issuer="bench", clock=utc_now)
    until = utc_now() + timedelta(hours=1)
    for number in range(REVOCATIONS):
        revocations.add(Revocation(RevocationKind.SESSION, f"session-{number}", until))

    def decode(token: str = tokens[0]) -> None:
        jwt.decode(token, secret, algorithms=["HS256"], audience="orders", issuer="bench")

    hot = interleaved(
        {
            "jwt.decode": decode,
            "LocalVerifier, seen before": lambda: empty.verify(tokens[0], audience="orders"),
            "seen before, no revocations": lambda: bare.verify(tokens[0], audience="orders"),
            f"seen before, {REVOCATIONS} revocations": lambda: full.verify(
                tokens[0], audience="orders"
            ),
        },
        calls=2000,
        rounds=ROUNDS,
    )
    for name, value in hot.items():
        print(f"{name:40} {value * 1e6:8.2f} µs   1/{hot['jwt.decode'] / value:.1f} of jwt.decode")

    def unseen() -> None:
        verifier = TokenVerifier(ring, RevocationList(utc_now), issuer="bench", clock=utc_now)
        for token in tokens:
            verifier.verify(token, audience="orders")

    def decode_all() -> None:
        for token in tokens:
            decode(token)

    cold = interleaved({"decode": decode_all, "unseen": unseen}, calls=1, rounds=ROUNDS)
    print(f"never seen before: {cold['unseen'] / cold['decode']:.2f} of jwt.decode")


def _token(ring: KeyRing, number: int) -> str:
    now = int(time.time())
    return TokenSigner(ring).sign(
        AccessClaims(
            issuer="bench",
            subject=f"user-{number}",
            audience=("orders",),
            expires_at=now + 900,
            issued_at=now,
            token_id=f"token-{number}",
            session_id="session",
            client_id="web",
            scope=("read", "write"),
            roles=("user",),
            auth_time=now,
            amr=("pwd",),
        )
    )
