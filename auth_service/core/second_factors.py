"""The second factor of a login: who needs one, the challenge, and its proof.

Owns that a code costs an attempt before it is looked at, and that a wrong code is answered as a
wrong password is, and after as long.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import uuid4

from auth_service import audit
from auth_service.audit import Actor, ActorKind
from auth_service.clock import Clock
from auth_service.core import totp
from auth_service.core.factor_secrets import new_totp_factor, secret_of
from auth_service.core.passkeys import Passkeys, parsed_response
from auth_service.core.passwords import PasswordHasher
from auth_service.core.recovery_codes import code_hash
from auth_service.db.store import Store
from auth_service.errors import InvalidCredentials, NotFound, RateLimited, TooManyFactors
from auth_service.models import Factor, FactorKind, User
from auth_service.tokens.assurance import MFA, POSSESSION
from auth_service.tokens.challenge import ANYBODY, Challenges, LoginChallenge, LoginTerms
from auth_service.tokens.keys import MasterKey

__all__ = [
    "NO_PASSKEYS",
    "PROOFS",
    "FactorPolicy",
    "FactorProof",
    "IssuedChallenge",
    "SecondFactorRequired",
    "SecondFactors",
    "TotpEnrollment",
    "enrollment_of",
]

PROOFS = {
    "totp_code": FactorKind.TOTP,
    "recovery_code": FactorKind.RECOVERY_CODE,
    "passkey_response": FactorKind.PASSKEY,
}
"""What proves a second factor, by the name that every edge has for it."""
CHALLENGE_TTL = timedelta(minutes=5)
EVERYBODY = "*"
NO_PASSKEYS = "this service has no passkeys: it needs AUTH_PASSKEY_RP_ID or an issuer that is a URL"


@dataclass(frozen=True, slots=True)
class FactorPolicy:
    """Who must have a second factor, and how many attempts a user has to prove it."""

    service_name: str
    """What authenticator apps call the service."""
    roles: frozenset[str] = frozenset()
    """Whoever holds one of these must have one; EVERYBODY stands for all users."""
    burst: int = 5
    refill: timedelta = timedelta(minutes=5)
    recent_login: timedelta = timedelta(minutes=10)
    """How old a login may be that still changes factors."""


@dataclass(frozen=True, slots=True)
class FactorProof:
    """What completes a login: a code, as typed, or the answer of a passkey in JSON."""

    kind: FactorKind
    value: str = field(repr=False)

    def check_form(self) -> None:
        """Raise InvalidArgument for what cannot be a code."""
        match self.kind:
            case FactorKind.TOTP:
                totp.typed_code(self.value, "totp_code")
            case FactorKind.RECOVERY_CODE:
                code_hash(self.value)
            case FactorKind.PASSKEY:
                parsed_response(self.value)


@dataclass(frozen=True, slots=True)
class TotpEnrollment:
    """What an authenticator app has to be told."""

    secret: str = field(repr=False)
    """In base32."""
    uri: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class IssuedChallenge:
    """What a client has to answer."""

    token: str = field(repr=False)
    factors: tuple[FactorKind, ...]
    """The kinds that the user has."""
    expires_at: datetime
    enrollment: TotpEnrollment | None = None
    """Set if the user has none and needs one: what to enroll."""
    passkey_options: str = ""
    """What a browser asks the passkey with, in JSON; empty if there is none."""


class SecondFactorRequired(Exception):
    """Ends the first step of a login. Every edge answers it with the challenge.

    It is raised and not returned, so that no caller takes a challenge for tokens.
    """

    def __init__(self, challenge: IssuedChallenge) -> None:
        super().__init__("a second factor is required")
        self.challenge = challenge


class SecondFactors:
    """Asks for second factors, and checks them."""

    def __init__(
        self,
        store: Store,
        hasher: PasswordHasher,
        challenges: Challenges,
        root_key: MasterKey,
        passkeys: Passkeys | None,
        policy: FactorPolicy,
        clock: Clock,
    ) -> None:
        """Without `passkeys` none is asked for."""
        self._passkeys = passkeys
        self._store = store
        self._hasher = hasher
        self._challenges = challenges
        self._root_key = root_key
        self._policy = policy
        self._clock = clock

    async def require(self, user: User, terms: LoginTerms, amr: tuple[str, ...]) -> None:
        """Raise SecondFactorRequired if the user has to prove more than `amr`."""
        roles = self._policy.roles
        demanded = EVERYBODY in roles or not roles.isdisjoint(user.roles)
        if MFA in amr or not (user.second_factor or demanded):
            return
        challenge = LoginChallenge(
            id=uuid4(),
            user_id=user.id,
            terms=terms,
            amr=amr,
            revoked_before=user.revoked_before,
            expires_at=(self._clock() + CHALLENGE_TTL).replace(microsecond=0),
            enrolls=not user.second_factor,
        )
        row = audit.row("login.challenged", self._clock(), user_id=user.id)
        self._store.write_audit_later(row)
        raise SecondFactorRequired(await self._issued(challenge, user))

    async def _issued(self, challenge: LoginChallenge, user: User) -> IssuedChallenge:
        token, expires_at = self._challenges.sign(challenge), challenge.expires_at
        if challenge.enrolls:
            secret = self._challenges.enrolled_secret(challenge.id)
            enrollment = enrollment_of(secret, user, self._policy)
            return IssuedChallenge(token, (), expires_at, enrollment)
        factors = await self._store.list_factors(user.id)
        kinds = {factor.kind for factor in factors}
        if await self._store.count_recovery_codes(user.id):
            kinds.add(FactorKind.RECOVERY_CODE)
        options = ""
        if self._passkeys is not None and FactorKind.PASSKEY in kinds:
            asked = self._challenges.passkey_challenge(challenge.id)
            options = self._passkeys.request_options(asked, factors)
        return IssuedChallenge(token, tuple(sorted(kinds)), expires_at, None, options)

    def begin_alone(self, terms: LoginTerms) -> IssuedChallenge:
        """Return the challenge of a login by a passkey alone. Raises NotFound without passkeys."""
        if self._passkeys is None:
            raise NotFound(NO_PASSKEYS)
        expires_at = (self._clock() + CHALLENGE_TTL).replace(microsecond=0)
        challenge = LoginChallenge(uuid4(), ANYBODY, terms, (), None, expires_at)
        asked = self._challenges.passkey_challenge(challenge.id)
        options = self._passkeys.request_options(asked, alone=True)
        token = self._challenges.sign(challenge)
        return IssuedChallenge(token, (FactorKind.PASSKEY,), expires_at, None, options)

    def read(self, challenge_token: str) -> LoginChallenge:
        """Return the challenge of a token. Raises InvalidCredentials."""
        return self._challenges.read(challenge_token, self._clock())

    async def prove(
        self, challenge: LoginChallenge, proof: FactorProof
    ) -> tuple[User, tuple[str, ...]]:
        """Return the user, and how the user was authenticated in both steps.

        Takes one of the user's attempts, which a good code gives back. Raises InvalidArgument for
        what cannot be a code, InvalidCredentials, and RateLimited if no attempt is left.
        """
        if challenge.user_id == ANYBODY:
            return await self._owner(challenge, proof), (POSSESSION, MFA)
        audit.note(user_id=challenge.user_id)
        proof.check_form()  # what is no code costs nothing
        self._hasher.require_room()
        user, factors, wait = await self._store.reserve_factor_attempt(
            challenge.user_id, self._clock(), self._policy.burst, self._policy.refill
        )
        if wait is not None:
            raise RateLimited("too many attempts at the second factor of this user; wait", wait)
        proved: tuple[str, ...] = ()
        if user is not None and not user.disabled:
            actor = Actor(ActorKind.USER, str(user.id), proof.kind.value)
            # What the proof itself changes has rows of its own, whatever becomes of the login.
            with audit.aside(actor):
                proved = await self._methods(challenge, proof, factors)
        if user is None or not proved:
            await self._hasher.verify(None, "")
            raise InvalidCredentials
        audit.identify(Actor(ActorKind.USER, str(user.id), proof.kind.value))
        # A sign-out since the first step ends the challenge.
        user = replace(user, revoked_before=challenge.revoked_before)
        return user, tuple(dict.fromkeys((*challenge.amr, *proved, MFA)))

    async def _owner(self, challenge: LoginChallenge, proof: FactorProof) -> User:
        """Return the user whose passkey answers a challenge that names nobody."""
        proof.check_form()
        if proof.kind is not FactorKind.PASSKEY:
            raise InvalidCredentials
        credential_id = parsed_response(proof.value).raw_id
        factor = await self._store.find_passkey(credential_id)
        if factor is None:
            raise InvalidCredentials
        audit.note(user_id=factor.user_id)
        if not await self._use_passkey(challenge, proof.value, factor, True):
            raise InvalidCredentials
        user = await self._store.get_user(factor.user_id)
        if user is None or user.disabled:
            raise InvalidCredentials
        audit.identify(Actor(ActorKind.USER, str(user.id), proof.kind.value))
        return user

    async def _methods(
        self, challenge: LoginChallenge, proof: FactorProof, factors: Sequence[Factor]
    ) -> tuple[str, ...]:
        """Return the methods that the proof stands for (RFC 8176); none if it is wrong.

        A recovery code has no name there.
        """
        now = self._clock()
        if proof.kind is FactorKind.RECOVERY_CODE:
            hashed = code_hash(proof.value)
            used = await self._store.use_recovery_code(challenge.user_id, hashed, now)
            return (MFA,) if used else ()
        if proof.kind is FactorKind.PASSKEY:
            asked = parsed_response(proof.value).raw_id
            for factor in factors:
                if factor.credential_id == asked:
                    used = await self._use_passkey(challenge, proof.value, factor)
                    return (POSSESSION,) if used else ()
            return ()
        code = totp.typed_code(proof.value, "totp_code")
        if challenge.enrolls:
            return ("otp",) if await self._enroll(challenge, code, now) else ()
        for factor in factors:
            if factor.kind is FactorKind.TOTP and await self._use(factor, code, now):
                return ("otp",)
        return ()

    async def _use(self, factor: Factor, code: str, now: datetime) -> bool:
        step = totp.matching_step(secret_of(self._root_key, factor), code, now)
        if step is None or step <= factor.counter:
            return False
        return await self._store.use_totp_step(factor, step, now)

    async def _use_passkey(
        self, challenge: LoginChallenge, response: str, factor: Factor, alone: bool = False
    ) -> bool:
        if self._passkeys is None:
            return False
        asked = self._challenges.passkey_challenge(challenge.id)
        counter = self._passkeys.counter_of(response, asked, factor, alone=alone)
        if counter is None:
            return False
        return await self._store.use_passkey(
            factor, counter, challenge.id, challenge.expires_at, self._clock()
        )

    async def _enroll(self, challenge: LoginChallenge, code: str, now: datetime) -> bool:
        secret = self._challenges.enrolled_secret(challenge.id)
        step = totp.matching_step(secret, code, now)
        if step is None:
            return False
        factor = new_totp_factor(
            self._root_key, challenge.user_id, challenge.id, secret, step=step, name="", now=now
        )
        try:
            await self._store.add_factor(factor, first=True)
        except TooManyFactors:  # another challenge has enrolled one in the meantime
            return False
        return True


def enrollment_of(secret: bytes, user: User, policy: FactorPolicy) -> TotpEnrollment:
    """Return what an authenticator app has to be told."""
    uri = totp.provisioning_uri(secret, user.identifiers[0], policy.service_name)
    return TotpEnrollment(totp.base32(secret), uri)
