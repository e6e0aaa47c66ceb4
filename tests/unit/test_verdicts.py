"""The answers of Validate in bytes: the same ones that protobuf makes."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from authn.v1 import auth_service_pb2 as pb

from auth_service.errors import InactiveReason
from auth_service.rpc.verdicts import Verdicts, batch
from auth_service.tokens import AccessClaims
from auth_service.validation import Verdict

AS_OF = datetime(2026, 11, 21, 9, 30, 0, 123456, UTC)
CLAIMS = AccessClaims(
    issuer="https://auth.test",
    subject="alice",
    audience=("billing", "orders"),
    expires_at=900,
    issued_at=100,
    token_id="jti",
    session_id="sid",
    client_id="web",
    scope=("read",),
    roles=("user",),
    auth_time=90,
    amr=("pwd",),
)


def parsed(encoded: bytes) -> Any:
    """Read an answer, and see that nobody else would have written it otherwise."""
    response = pb.ValidateResponse.FromString(encoded)
    assert response.SerializeToString(deterministic=True) == encoded
    return response


def test_an_active_token_is_answered_with_its_claims_and_the_time_of_now() -> None:
    """Also the second time, when only the time is another."""
    verdicts = Verdicts()
    for as_of in (AS_OF, AS_OF.replace(hour=10)):
        response = parsed(verdicts.response(Verdict(CLAIMS, None, as_of)))
        assert (response.active, response.claims.subject) == (True, "alice")
        assert list(response.claims.audience) == ["billing", "orders"]
        assert response.claims.expires_at.seconds == 900
        assert response.revocations_as_of.ToDatetime(UTC) == as_of


def test_two_tokens_of_one_id_are_told_apart() -> None:
    """A refresh may narrow the scope of a token whose id stays."""
    verdicts = Verdicts()
    for claims in (CLAIMS, replace(CLAIMS, scope=()), CLAIMS):
        response = parsed(verdicts.response(Verdict(claims, None, AS_OF)))
        assert tuple(response.claims.scope) == claims.scope


@pytest.mark.parametrize("reason", InactiveReason)
def test_an_inactive_token_is_answered_with_the_reason_alone(reason: InactiveReason) -> None:
    """And with no claims."""
    response = parsed(Verdicts().response(Verdict(None, reason, AS_OF)))
    assert pb.InactiveReason.Name(response.inactive_reason) == f"INACTIVE_REASON_{reason.name}"
    assert not response.HasField("claims")
    assert not response.active


@pytest.mark.parametrize("size", [0, 1, 120, 127, 128, 16_380, 16_384, 70_000])
def test_a_batch_is_what_protobuf_makes_of_the_same_answers(size: int) -> None:
    """Whatever their length."""
    answer = pb.ValidateResponse(claims=pb.Claims(subject="x" * size))
    expected = pb.BatchValidateResponse(responses=[answer, answer]).SerializeToString()
    assert batch([answer.SerializeToString()] * 2) == expected
