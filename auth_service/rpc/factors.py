"""Second factors on the wire: a challenge, its answer, and the caller's own factors."""

from authn.v1 import account_service_pb2 as pb
from authn.v1 import auth_service_pb2 as auth_pb

from auth_service.core import fields
from auth_service.core.own_factors import OwnFactors
from auth_service.core.second_factors import PROOFS, FactorProof, IssuedChallenge, TotpEnrollment
from auth_service.core.shielded import Shielded
from auth_service.errors import InvalidArgument
from auth_service.models import Factor, FactorKind
from auth_service.rpc.callers import Callers
from auth_service.rpc.dispatcher import Context
from auth_service.rpc.timestamps import timestamp

__all__ = ["FactorMethods", "challenge_of", "proof_of"]

_KINDS = {
    FactorKind.TOTP: auth_pb.FACTOR_KIND_TOTP,
    FactorKind.RECOVERY_CODE: auth_pb.FACTOR_KIND_RECOVERY_CODE,
    FactorKind.PASSKEY: auth_pb.FACTOR_KIND_PASSKEY,
}


def challenge_of(issued: IssuedChallenge) -> auth_pb.LoginChallenge:
    """Return the challenge of a login as a message."""
    return auth_pb.LoginChallenge(
        challenge_token=issued.token,
        factors=[_KINDS[kind] for kind in issued.factors],
        expires_at=timestamp(issued.expires_at),
        enrollment=None if issued.enrollment is None else _enrollment(issued.enrollment),
        passkey_options=issued.passkey_options,
    )


def proof_of(credentials: auth_pb.FactorCredentials) -> FactorProof:
    """Return what proves the second factor. Raises InvalidArgument if nothing does."""
    name = credentials.WhichOneof("proof")
    if name is None or not getattr(credentials, name):
        raise InvalidArgument("factor.proof", f"is required: set {' or '.join(PROOFS)}")
    return FactorProof(PROOFS[name], getattr(credentials, name))


class FactorMethods:
    """The methods of AccountService for second factors."""

    _callers: Callers
    _factors: OwnFactors
    _shielded: Shielded

    async def ListFactors(
        self, request: pb.ListFactorsRequest, context: Context
    ) -> pb.ListFactorsResponse:
        """Return the caller's factors."""
        found, left = await self._factors.owned(self._callers.require(context))
        return pb.ListFactorsResponse(factors=map(_factor, found), recovery_codes_left=left)

    async def BeginTotpEnrollment(
        self, request: pb.BeginTotpEnrollmentRequest, context: Context
    ) -> pb.BeginTotpEnrollmentResponse:
        """Return the secret of a new authenticator app."""
        caller = self._callers.require(context)
        told, token, expires_at = await self._factors.begin_totp(caller)
        return pb.BeginTotpEnrollmentResponse(
            enrollment=_enrollment(told), enrollment_token=token, expires_at=timestamp(expires_at)
        )

    async def ConfirmTotpEnrollment(
        self, request: pb.ConfirmTotpEnrollmentRequest, context: Context
    ) -> pb.ConfirmTotpEnrollmentResponse:
        """Add an authenticator app."""
        caller = self._callers.require(context)
        factor, codes = await self._shielded.run(
            self._factors.confirm_totp(
                caller, request.enrollment_token, request.totp_code, request.name
            )
        )
        return pb.ConfirmTotpEnrollmentResponse(factor=_factor(factor), recovery_codes=codes)

    async def DeleteFactor(
        self, request: pb.DeleteFactorRequest, context: Context
    ) -> pb.DeleteFactorResponse:
        """Remove a factor of the caller."""
        caller = self._callers.require(context)
        factor_id = fields.uuid(request.factor_id, "factor_id")
        await self._shielded.run(self._factors.delete(caller, factor_id))
        return pb.DeleteFactorResponse()

    async def GenerateRecoveryCodes(
        self, request: pb.GenerateRecoveryCodesRequest, context: Context
    ) -> pb.GenerateRecoveryCodesResponse:
        """Replace the caller's recovery codes."""
        caller = self._callers.require(context)
        codes = await self._shielded.run(self._factors.generate_recovery_codes(caller))
        return pb.GenerateRecoveryCodesResponse(recovery_codes=codes)


def _enrollment(told: TotpEnrollment) -> auth_pb.TotpEnrollment:
    return auth_pb.TotpEnrollment(secret=told.secret, uri=told.uri)


def _factor(factor: Factor) -> pb.Factor:
    used = factor.last_used_at
    return pb.Factor(
        factor_id=str(factor.id),
        kind=_KINDS[factor.kind],
        name=factor.name,
        created_at=timestamp(factor.created_at),
        last_used_at=None if used is None else timestamp(used),
    )
