"""What a local verification costs, beside `jwt.decode` of PyJWT and of joserfc."""

import secrets
import site
import time
from collections.abc import Callable
from datetime import timedelta

import jwt

from auth_service import base64url
from auth_service.client import LocalVerifier
from auth_service.clock import utc_now
from auth_service.models import Revocation, RevocationKind
from auth_service.tokens.access import AccessClaims, TokenSigner, TokenVerifier
from auth_service.tokens.keys import KeyRing, shared_key
from auth_service.tokens.revocation import RevocationList
from benchmarks.figures import Verdict, interleaved, medians, ratios, show
from benchmarks.rivals.environment import site_packages

REVOCATIONS = 100_000
ROUNDS = 15


def main() -> list[Verdict]:
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

    seen = interleaved(
        {
            "PyJWT": decode,
            "joserfc": _joserfc(secret, tokens[0]),
            "LocalVerifier": lambda: empty.verify(tokens[0], audience="orders"),
            "TokenVerifier, no revocations": lambda: bare.verify(tokens[0], audience="orders"),
            f"TokenVerifier, {REVOCATIONS:,} revocations": lambda: full.verify(
                tokens[0], audience="orders"
            ),
        },
        calls=2000,
        rounds=ROUNDS,
    )
    hot = {name: [value * 1e6 for value in values] for name, values in seen.items()}
    show(hot, "µs", 2)

    def unseen() -> None:
        verifier = TokenVerifier(ring, RevocationList(utc_now), issuer="bench", clock=utc_now)
        for token in tokens:
            verifier.verify(token, audience="orders")

    def decode_all() -> None:
        for token in tokens:
            decode(token)

    cold = medians(interleaved({"decode": decode_all, "unseen": unseen}, calls=1, rounds=ROUNDS))
    print(f"  never seen before: {cold['unseen'] / cold['decode']:.2f} of PyJWT's time")
    return [
        Verdict(
            f"local verification, hot, of jwt.decode of {name}",
            ratios(hot[name], hot["LocalVerifier"]), 30, sides=medians(hot),
        )
        for name in ("PyJWT", "joserfc")
    ]  # fmt: skip


def _joserfc(secret: bytes, token: str) -> Callable[[], object]:
    """Return a decode by joserfc with the same checks, from the rivals' own environment."""
    site.addsitedir(site_packages())
    from joserfc import jwt as joserfc_jwt  # type: ignore[import-not-found]  # noqa: PLC0415
    from joserfc.jwk import OctKey  # type: ignore[import-not-found]  # noqa: PLC0415

    key = OctKey.import_key(secret)
    claims = joserfc_jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": "bench"}, aud={"essential": True, "value": "orders"}
    )
    return lambda: claims.validate(joserfc_jwt.decode(token, key, algorithms=["HS256"]).claims)


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
