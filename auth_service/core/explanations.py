"""ExplainToken: why an access token is good or not, here and now.

Owns which revocations cover a token, and that each explanation is in the audit log. The verdict is
that of a TokenVerifier.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from auth_service import audit
from auth_service.audit import About
from auth_service.clock import Clock
from auth_service.core import fields
from auth_service.core.auditing import subject_of
from auth_service.core.signing_keys import SigningKeys
from auth_service.db.store import Store
from auth_service.errors import InactiveReason, InvalidArgument, InvalidToken
from auth_service.models import RecordedRevocation, Revocation, RevocationKind
from auth_service.tokens.access import AccessClaims, TokenVerifier
from auth_service.tokens.explanation import Check, Outcome, Question, View, explain
from auth_service.tokens.revocation import RevocationList

__all__ = ["Explained", "Explanations", "covers"]


@dataclass(frozen=True, slots=True)
class Explained:
    """The verdict on a token, the checks that led to it, and the revocations that cover it."""

    inactive_reason: InactiveReason | None
    checks: tuple[Check, ...]
    claims: AccessClaims | None
    genuine: bool
    """Whether a trusted key signed the claims. If not, anybody may have made them."""
    revocations: tuple[RecordedRevocation, ...]
    """What the database has; this process may not have heard of the last one yet."""
    revocations_as_of: datetime
    explained_at: datetime

    @property
    def active(self) -> bool:
        """Whether Validate would call the token active."""
        return all(check.outcome is Outcome.PASSED for check in self.checks)


class Explanations:
    """Explains access tokens by what this process knows of keys and revocations.

    Without `revocations` it goes by those that the database has now, for a command.
    """

    def __init__(
        self,
        store: Store,
        keys: SigningKeys,
        revocations: RevocationList | None,
        revocations_as_of: Callable[[], datetime],
        *,
        issuer: str,
        clock_skew: timedelta,
        freshness_limit: timedelta,
        clock: Clock,
    ) -> None:
        self._store = store
        self._keys = keys
        self._revocations = revocations
        self._as_of = revocations_as_of
        self._issuer = issuer
        self._skew = clock_skew
        self._limit = freshness_limit
        self._clock = clock

    async def explain(
        self,
        token: str,
        *,
        audience: str = "",
        required_scope: Sequence[str] = (),
        required_roles: Sequence[str] = (),
        certificate_thumbprint: str = "",
        max_age: timedelta | None = None,
        acr_values: Sequence[str] = (),
    ) -> Explained:
        """Return why a token is active or not. Raises InvalidArgument, Unavailable.

        The question is that of Validate. Writes one row to the audit log.
        """
        if not token:
            raise InvalidArgument("access_token", "is required")
        question = Question(
            fields.label(audience, "audience"),
            fields.scope(required_scope, "required_scope"),
            fields.labels(required_roles, "required_roles"),
            fields.thumbprint(certificate_thumbprint, "certificate_thumbprint"),
            max_age,
            fields.acr_values(acr_values),
        )
        stored = {key.kid: key for key in await self._keys.stored()}
        now = self._clock()
        nothing = View(
            self._keys.ring, stored, RevocationList(self._clock), self._issuer, now, self._skew
        )
        first = explain(token, nothing, question)
        recorded = await self._recorded(first.claims)
        await self._audit(first.claims if first.genuine else None, now)
        revocations = self._revocations
        if revocations is None:
            revocations = nothing.revocations
            revocations.add_all(each.revocation for each in recorded)
        now, as_of = self._clock(), self._as_of()
        view = View(self._keys.ring, stored, revocations, self._issuer, now, self._skew)
        explanation = explain(token, view, question)
        return Explained(
            self._verdict(token, view, question),
            (*explanation.checks, self._freshness(as_of, now)),
            explanation.claims,
            explanation.genuine,
            recorded,
            as_of,
            now,
        )

    def _verdict(self, token: str, view: View, question: Question) -> InactiveReason | None:
        verifier = TokenVerifier(
            view.ring,
            view.revocations,
            issuer=view.issuer,
            clock=lambda: view.now,
            clock_skew=view.clock_skew,
        )
        try:
            verifier.verify(
                token,
                audience=question.audience,
                required_scope=question.required_scope,
                required_roles=question.required_roles,
                certificate_thumbprint=question.certificate_thumbprint,
                max_age=question.max_age,
                acr_values=question.acr_values,
            )
        except InvalidToken as error:
            return error.inactive_reason
        return None

    def _freshness(self, as_of: datetime, now: datetime) -> Check:
        age, limit = max(0.0, (now - as_of).total_seconds()), self._limit.total_seconds()
        detail = f"revocations are known up to {age:.1f} s ago; the limit is {limit:g} s"
        if age <= limit:
            return Check("freshness", Outcome.PASSED, detail)
        return Check("freshness", Outcome.FAILED, f"{detail}: Validate answers UNAVAILABLE")

    async def _recorded(self, claims: AccessClaims | None) -> tuple[RecordedRevocation, ...]:
        if claims is None:
            return ()
        named = dict.fromkeys(_named(claims))
        found = await self._store.find_revocations(
            [kind.value for kind, _ in named], [target for _, target in named]
        )
        return tuple(each for each in found if covers(each.revocation, claims))

    async def _audit(self, claims: AccessClaims | None, now: datetime) -> None:
        """Note that a token was explained, and whose; a forged one says nothing of anybody."""
        about = About() if claims is None else subject_of(claims)
        await self._store.write_audit(audit.row("token.explained", now, **about))


def covers(revocation: Revocation, claims: AccessClaims) -> bool:
    """Tell whether a revocation covers a token, or one that it was exchanged for.

    The rule is that of RevocationList.check, for one revocation.
    """
    match revocation.kind:
        case RevocationKind.TOKEN:
            parents = (link.parent_id for link in claims.chain)
            return revocation.target in (claims.token_id, *parents)
        case RevocationKind.SESSION:
            return revocation.target == claims.session_id
    if revocation.issued_before is None:
        return False
    before = int(revocation.issued_before.timestamp())
    return any(
        issued_at < before
        for subject, issued_at in _dated(claims)
        if revocation.kind is RevocationKind.ALL or subject == revocation.target
    )


def _dated(claims: AccessClaims) -> Iterator[tuple[str, int]]:
    """Yield who has a part in a token, and since when."""
    yield claims.subject, claims.issued_at
    for link in claims.chain[-1:]:
        yield claims.subject, link.parent_issued_at
    for link in claims.chain:
        yield link.actor, link.actor_issued_at


def _named(claims: AccessClaims) -> Iterator[tuple[RevocationKind, str]]:
    """Yield what revocations of this token would name."""
    yield RevocationKind.TOKEN, claims.token_id
    for link in claims.chain:
        yield RevocationKind.TOKEN, link.parent_id
    if claims.session_id:
        yield RevocationKind.SESSION, claims.session_id
    for subject, _ in _dated(claims):
        yield RevocationKind.USER, subject
    yield RevocationKind.ALL, ""
