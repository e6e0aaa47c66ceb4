"""The second factors of the caller's own account: listed, enrolled and removed.

Owns that a change needs a recent login, with a second factor if there is one, so that a stolen
access token changes nothing.
"""

from datetime import datetime, timedelta
from uuid import UUID, uuid4

from auth_service.clock import Clock
from auth_service.core import fields, totp
from auth_service.core.accounts import own_ids
from auth_service.core.factor_secrets import new_totp_factor
from auth_service.core.passkeys import Passkeys
from auth_service.core.recovery_codes import code_hash, new_codes
from auth_service.core.second_factors import (
    NO_PASSKEYS,
    FactorPolicy,
    TotpEnrollment,
    enrollment_of,
)
from auth_service.db.store import Store
from auth_service.errors import (
    InsufficientUserAuthentication,
    InvalidArgument,
    InvalidCredentials,
    NotFound,
)
from auth_service.models import Factor, FactorKind, User
from auth_service.tokens.access import AccessClaims
from auth_service.tokens.assurance import MULTI_FACTOR
from auth_service.tokens.challenge import Challenges, Enrollment
from auth_service.tokens.keys import MasterKey

__all__ = ["OwnFactors"]

ENROLLMENT_TTL = timedelta(minutes=10)


class OwnFactors:
    """Changes the factors of a calling user. A service account is PermissionDenied."""

    def __init__(
        self,
        store: Store,
        challenges: Challenges,
        root_key: MasterKey,
        passkeys: Passkeys | None,
        policy: FactorPolicy,
        clock: Clock,
    ) -> None:
        """Without `passkeys` none can be added."""
        self._passkeys = passkeys
        self._store = store
        self._challenges = challenges
        self._root_key = root_key
        self._policy = policy
        self._clock = clock

    async def owned(self, caller: AccessClaims) -> tuple[list[Factor], int]:
        """Return the factors, oldest first, and how many recovery codes are left."""
        user_id, _ = own_ids(caller)
        factors = await self._store.list_factors(user_id)
        return factors, await self._store.count_recovery_codes(user_id)

    async def begin_totp(self, caller: AccessClaims) -> tuple[TotpEnrollment, str, datetime]:
        """Return what a new app has to be told, the token of the enrollment, and its expiry.

        Raises InsufficientUserAuthentication, as all changes do.
        """
        user = await self._recently_logged_in(caller)
        enrollment = self._new_enrollment(user)
        secret = self._challenges.enrolled_secret(enrollment.id)
        told = enrollment_of(secret, user, self._policy)
        return told, self._challenges.sign_enrollment(enrollment), enrollment.expires_at

    async def confirm_totp(
        self, caller: AccessClaims, enrollment_token: str, code: str, name: str = ""
    ) -> tuple[Factor, list[str]]:
        """Add the app, and return it with the first recovery codes of the user, if these are.

        Raises InvalidArgument for a wrong token or code, TooManyFactors, and AlreadyExists if the
        enrollment was confirmed before.
        """
        code, name = totp.typed_code(code, "totp_code"), fields.label(name, "name")
        user = await self._recently_logged_in(caller)
        enrollment = self._enrollment(enrollment_token, user)
        now, secret = self._clock(), self._challenges.enrolled_secret(enrollment.id)
        step = totp.matching_step(secret, code, now)
        if step is None:
            raise InvalidArgument(
                "totp_code", "is not the present code of this secret; check the device's clock"
            )
        factor = new_totp_factor(
            self._root_key, user.id, enrollment.id, secret, step=step, name=name, now=now
        )
        return factor, await self._add(factor)

    async def begin_passkey(self, caller: AccessClaims) -> tuple[str, str, datetime]:
        """Return what a browser makes a passkey with, the token of the enrollment, and its expiry.

        Raises NotFound if the service has no passkeys.
        """
        user, passkeys = await self._recently_logged_in(caller), self._relying_party()
        enrollment = self._new_enrollment(user)
        options = passkeys.creation_options(
            self._challenges.passkey_challenge(enrollment.id),
            user,
            await self._store.list_factors(user.id),
        )
        return options, self._challenges.sign_enrollment(enrollment), enrollment.expires_at

    async def confirm_passkey(
        self, caller: AccessClaims, enrollment_token: str, response: str, name: str = ""
    ) -> tuple[Factor, list[str]]:
        """Add the passkey that a browser made; return and raise as `confirm_totp`."""
        name = fields.label(name, "name")
        user, passkeys = await self._recently_logged_in(caller), self._relying_party()
        enrollment = self._enrollment(enrollment_token, user)
        made = passkeys.register(response, self._challenges.passkey_challenge(enrollment.id))
        factor = Factor(
            user.id,
            enrollment.id,
            FactorKind.PASSKEY,
            name,
            made.public_key,
            made.counter,
            self._clock(),
            credential_id=made.credential_id,
        )
        return factor, await self._add(factor)

    async def delete(self, caller: AccessClaims, factor_id: UUID) -> None:
        """Remove a factor. Raises NotFound."""
        user = await self._recently_logged_in(caller)
        await self._store.delete_factor(user.id, factor_id, self._clock())

    async def generate_recovery_codes(self, caller: AccessClaims) -> list[str]:
        """Return new recovery codes, which replace the earlier ones.

        Raises NotFound for a user without a factor, who has no use for them.
        """
        user = await self._recently_logged_in(caller)
        if not user.second_factor:
            raise NotFound("there is no second factor; enroll one first")
        codes = new_codes()
        hashes = [code_hash(code) for code in codes]
        await self._store.replace_recovery_codes(user.id, hashes, self._clock())
        return codes

    async def _recently_logged_in(self, caller: AccessClaims) -> User:
        user_id, _ = own_ids(caller)
        user = await self._store.get_user(user_id)
        if user is None or user.disabled:
            raise NotFound("no such user")
        recent, wanted = self._policy.recent_login, MULTI_FACTOR if user.second_factor else ()
        unmet = []
        if self._clock().timestamp() - caller.auth_time > recent.total_seconds():
            unmet.append("max_age")
        if wanted and caller.acr not in wanted:
            unmet.append("acr_values")
        if unmet:
            raise InsufficientUserAuthentication(recent, wanted, tuple(unmet))
        return user

    async def _add(self, factor: Factor) -> list[str]:
        """Add a factor; return the first recovery codes of the user, if these are."""
        codes = new_codes()
        added = await self._store.add_factor(factor, [code_hash(code) for code in codes])
        return codes if added else []

    def _relying_party(self) -> Passkeys:
        if self._passkeys is None:
            raise NotFound(NO_PASSKEYS)
        return self._passkeys

    def _new_enrollment(self, user: User) -> Enrollment:
        expires_at = (self._clock() + ENROLLMENT_TTL).replace(microsecond=0)
        return Enrollment(uuid4(), user.id, expires_at)

    def _enrollment(self, token: str, user: User) -> Enrollment:
        try:
            enrollment = self._challenges.read_enrollment(token, self._clock())
        except InvalidCredentials as error:
            raise InvalidArgument(
                "enrollment_token", "is not valid, or has expired; begin again"
            ) from error
        if enrollment.user_id != user.id:
            raise InvalidArgument("enrollment_token", "is that of another user; begin again")
        return enrollment
