"""Events of VerifierService.Watch, and the tokens that they are about, at one moment."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from authn.v1 import verifier_service_pb2 as pb

from auth_service.tokens import jws
from auth_service.tokens.access import ACCESS_TOKEN_TYPE, AccessClaims
from auth_service.tokens.keys import SigningKey, generate_key

START = datetime(2026, 1, 1, tzinfo=UTC)
LATER = START + timedelta(minutes=15)
SECOND = timedelta(seconds=1)

SHARED = generate_key("HS256")
PUBLIC = generate_key("EdDSA")
CLAIMS = AccessClaims(
    issuer="https://auth.test",
    subject="alice",
    audience=("orders",),
    expires_at=int(LATER.timestamp()),
    issued_at=int(START.timestamp()),
    token_id="jti",
    session_id="sid",
    client_id="web",
    scope=("read", "write"),
    roles=("clerk",),
    auth_time=int(START.timestamp()),
    amr=("pwd",),
)


def token_of(key: SigningKey = PUBLIC, **changes: Any) -> str:
    """Return a token as the service would issue it."""
    return jws.sign(CLAIMS._replace(**changes).as_jwt(), key, ACCESS_TOKEN_TYPE)


def verification_key(key: SigningKey) -> pb.VerificationKey:
    """Return a key as it is sent to a caller with the role `verifier`."""
    message = pb.VerificationKey(kid=key.kid, algorithm=key.algorithm)
    if key.is_secret:
        message.secret = key.secret
    else:
        message.public_jwk = json.dumps(key.public_jwk())
    return message


def event(as_of: datetime | None = START, cursor: str = "", **kind: Any) -> pb.WatchResponse:
    """Return an event of the one kind that is named."""
    message = pb.WatchResponse(cursor=cursor, **kind)
    if as_of is not None:
        message.as_of.FromDatetime(as_of)
    return message


def key_set(*keys: SigningKey, **options: Any) -> pb.WatchResponse:
    """Return the event that tells the keys."""
    return event(key_set=pb.KeySet(keys=[verification_key(key) for key in keys]), **options)


def snapshot(*revocations: pb.Revocation, **options: Any) -> pb.WatchResponse:
    """Return the event that tells all revocations."""
    return event(
        revocation_snapshot=pb.RevocationSnapshot(revocations=revocations), cursor="s", **options
    )


def segment(
    *packed: pb.PackedRevocations, others: Sequence[pb.Revocation] = ()
) -> pb.WatchResponse:
    """Return the event that tells many revocations."""
    return event(as_of=None, revocation_segment=pb.RevocationSegment(packed=packed, others=others))


def revoked(revocation: pb.Revocation, cursor: str, **options: Any) -> pb.WatchResponse:
    """Return the event that tells one more."""
    return event(revocation=revocation, cursor=cursor, **options)


def heartbeat(cursor: str = "", **options: Any) -> pb.WatchResponse:
    """Return the event that tells that nothing happened."""
    return event(heartbeat=pb.Heartbeat(), cursor=cursor, **options)


def revocation(
    issued_before: datetime | None = None, expires_at: datetime | None = LATER, **target: Any
) -> pb.Revocation:
    """Return a revocation of the one target that is named."""
    message = pb.Revocation(**target)
    if issued_before is not None:
        message.issued_before.FromDatetime(issued_before)
    if expires_at is not None:
        message.expires_at.FromDatetime(expires_at)
    return message
