"""ExplainToken's answer in the form that it has on the wire."""

from authn.v1 import admin_service_pb2 as pb
from authn.v1 import auth_service_pb2 as auth_pb

from auth_service.core.explanations import Explained
from auth_service.errors import InactiveReason
from auth_service.models import RecordedRevocation
from auth_service.rpc.timestamps import timestamp
from auth_service.rpc.verdicts import fill_claims
from auth_service.tokens.explanation import Check, Outcome

__all__ = ["explanation"]

_OUTCOMES = {
    Outcome.PASSED: pb.CHECK_OUTCOME_PASSED,
    Outcome.FAILED: pb.CHECK_OUTCOME_FAILED,
    Outcome.NOT_CHECKED: pb.CHECK_OUTCOME_NOT_CHECKED,
}

_REASONS: dict[InactiveReason | None, auth_pb.InactiveReason] = {
    reason: getattr(auth_pb, f"INACTIVE_REASON_{reason.name}") for reason in InactiveReason
}
_REASONS[None] = auth_pb.INACTIVE_REASON_UNSPECIFIED


def explanation(explained: Explained) -> pb.ExplainTokenResponse:
    """Return the answer of ExplainToken."""
    response = pb.ExplainTokenResponse(
        active=explained.active,
        inactive_reason=_reason(explained.inactive_reason),
        checks=map(_check, explained.checks),
        claims_verified=explained.genuine,
        revocations=map(_revocation, explained.revocations),
        revocations_as_of=timestamp(explained.revocations_as_of),
        explained_at=timestamp(explained.explained_at),
    )
    if explained.claims is not None:
        fill_claims(response.claims, explained.claims)
    return response


def _check(check: Check) -> pb.TokenCheck:
    return pb.TokenCheck(
        name=check.name,
        outcome=_OUTCOMES[check.outcome],
        reason=_reason(check.reason),
        detail=check.detail,
    )


def _reason(reason: InactiveReason | None) -> auth_pb.InactiveReason:
    return _REASONS[reason]


def _revocation(recorded: RecordedRevocation) -> pb.CoveringRevocation:
    revocation = recorded.revocation
    before = revocation.issued_before
    return pb.CoveringRevocation(
        kind=revocation.kind.value,
        target=revocation.target,
        recorded_at=timestamp(recorded.recorded_at),
        issued_before=None if before is None else timestamp(before),
        expires_at=timestamp(revocation.expires_at),
    )
