"""Workloads log in without a secret: by a token that their platform signs, or by a certificate.

Owns whose token it is and which service account it opens. A token is verified with keys that are
already known: nothing is fetched because a token names it. Knows neither the sources of the keys
nor the wire.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import structlog

from auth_service import audit
from auth_service.clock import Clock
from auth_service.core import fields
from auth_service.db.store import Store
from auth_service.errors import InvalidArgument, InvalidCredentials, Unavailable
from auth_service.models import ServiceAccount, WorkloadMapping
from auth_service.tokens import foreign
from auth_service.tokens.foreign import Refusal, RefusalReason, Rules, Token
from auth_service.tokens.foreign_keys import ForeignKey, TrustedKeys, foreign_key
from auth_service.tokens.jwk import read_object

__all__ = ["SPIFFE_ID", "Issuer", "IssuerKind", "Workloads", "assertion_rules"]

log = structlog.get_logger(__name__)

MAX_ASSERTION_LIFETIME = timedelta(minutes=10)
"""The longest lifetime of a client's own assertion, whose `jti` is kept for as long."""

_ID_MARGIN = timedelta(minutes=1)  # an id outlives its assertion, whatever the clock is set to
_MAX_TOKEN_ID = 256
_ASSERTION_TYPES = frozenset({None, "JWT", "client-authentication+jwt"})
SPIFFE_ID = re.compile(
    r"(?P<domain>spiffe://[a-z0-9._-]{1,255})(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+)+"
)
"""An id of a workload, with its trust domain (SPIFFE ID sections 2.1 and 2.2)."""


class IssuerKind(StrEnum):
    """What an issuer's tokens look like."""

    KUBERNETES = "kubernetes"
    SPIFFE = "spiffe"
    JWKS = "jwks"


@dataclass(frozen=True, slots=True)
class Issuer:
    """An issuer of the configuration, with the keys that are fetched for it."""

    name: str
    """The `iss` of its tokens; `spiffe://` and the trust domain for SPIFFE."""
    kind: IssuerKind
    rules: Rules
    keys: TrustedKeys = field(default_factory=TrustedKeys)
    mappings: Mapping[str, WorkloadMapping] = field(default_factory=dict)
    """Those of the configuration, by subject."""
    certificates: bool = False
    """Whether a certificate of the trust domain logs in over mTLS (SPIFFE only)."""


def assertion_rules(audiences: Iterable[str]) -> Rules:
    """Return the rules of assertions that clients sign for themselves (RFC 7523 section 3)."""
    return Rules(
        audiences=frozenset(audiences),
        max_lifetime=MAX_ASSERTION_LIFETIME,
        max_age=MAX_ASSERTION_LIFETIME,
        types=_ASSERTION_TYPES,
        requires_issued_at=False,
    )


@dataclass(slots=True)
class _Seen:
    """What the log may say of a login: nothing that is not proved."""

    way: str = ""
    issuer: str = ""
    subject: str = ""


class Workloads:
    """Tells which service account a workload is. Every refusal looks the same."""

    def __init__(
        self,
        store: Store,
        issuers: Iterable[Issuer],
        assertions: Rules,
        clock_skew: timedelta,
        clock: Clock,
    ) -> None:
        self._store = store
        self._issuers = {issuer.name: issuer for issuer in issuers}
        self._assertions = assertions
        self._skew = clock_skew
        self._clock = clock

    async def authenticate(self, token: str, client_id: str = "") -> ServiceAccount:
        """Return the account of a token: of a platform, or signed with the account's own key.

        `client_id` may name the account that it has to be. Raises InvalidCredentials, and
        Unavailable if the keys of the issuer were never fetched.
        """
        seen = _Seen()

        async def proved() -> str:
            presented = foreign.read(token)
            issuer = self._issuer_of(presented.claims)
            if issuer is None:
                return await self._own_key(presented, seen)
            return await self._platform(issuer, presented, seen)

        return await self._account(proved, client_id, seen)

    async def authenticate_certificate(
        self, names: Sequence[str], client_id: str = ""
    ) -> ServiceAccount:
        """Return the account of an X.509-SVID by the URIs in the verified certificate of a caller.

        There has to be exactly one (X509-SVID section 2). Else as `authenticate`.
        """
        seen = _Seen("x509_svid")

        async def proved() -> str:
            if len(names) != 1:
                raise Refusal(RefusalReason.NO_CERTIFICATE)
            issuer = self._issuers.get(_trust_domain(names[0]))
            if issuer is None or not issuer.certificates:
                raise Refusal(RefusalReason.UNKNOWN_ISSUER)
            seen.issuer, seen.subject = issuer.name, names[0]
            return await self._mapped(issuer, names[0], {})

        return await self._account(proved, client_id, seen)

    async def _account(
        self, proved: Callable[[], Any], client_id: str, seen: _Seen
    ) -> ServiceAccount:
        wanted = fields.identifier(client_id, "client_id") if client_id else ""
        try:
            found: str = await proved()
            if wanted and wanted != found:
                raise Refusal(RefusalReason.WRONG_CLIENT)
            account = await self._store.find_service_account(found)
            if account is None:
                raise Refusal(RefusalReason.NO_ACCOUNT)
            audit.note(client_id=account.client_id)
            if account.disabled:
                raise Refusal(RefusalReason.DISABLED)
        except Refusal as refusal:
            audit.note(details={"refused": refusal.reason.value})
            log.debug("workload_refused", reason=refusal.reason.value, **_proved(seen))
            raise InvalidCredentials from refusal
        log.info("workload_login", client_id=account.client_id, **_proved(seen))
        return account

    def _issuer_of(self, claims: dict[str, Any]) -> Issuer | None:
        """Return the issuer whose keys must verify the token; None if it is the client itself."""
        subject = foreign.text(claims, "sub")
        # The trust domain of the subject decides: `iss` means nothing in a JWT-SVID.
        spiffe = self._issuers.get(_trust_domain(subject))
        if spiffe is not None:
            return spiffe
        name = foreign.text(claims, "iss")
        issuer = self._issuers.get(name)
        if issuer is None and name != subject:
            raise Refusal(RefusalReason.UNKNOWN_ISSUER)
        return issuer

    async def _platform(self, issuer: Issuer, token: Token, seen: _Seen) -> str:
        seen.way, seen.issuer = issuer.kind.value, issuer.name
        token.check(issuer.rules, self._clock(), self._skew)
        if not issuer.keys.known:
            raise Unavailable("the keys of the token's issuer are not known yet")
        token.verify(issuer.keys.get(token.kid))
        subject = foreign.text(token.claims, "sub")
        seen.subject = subject
        _check_subject(issuer, subject, token.claims)
        return await self._mapped(issuer, subject, token.claims)

    async def _mapped(self, issuer: Issuer, subject: str, claims: Mapping[str, object]) -> str:
        mapping = issuer.mappings.get(subject)
        if mapping is None:
            mapping = await self._store.find_workload_mapping(issuer.name, subject)
        if mapping is None:
            raise Refusal(RefusalReason.NOT_MAPPED)
        for name, value in mapping.claims.items():
            if claims.get(name) != value:
                raise Refusal(RefusalReason.WRONG_CLAIM)
        return mapping.client_id

    async def _own_key(self, token: Token, seen: _Seen) -> str:
        """Return the account that signed the assertion, whose `jti` is used up by this."""
        seen.way = "private_key_jwt"
        token.check(self._assertions, self._clock(), self._skew)
        token_id = foreign.text(token.claims, "jti", _MAX_TOKEN_ID)
        client_id = foreign.text(token.claims, "iss")
        try:
            if fields.identifier(client_id) != client_id:
                raise Refusal(RefusalReason.WRONG_SUBJECT)
        except InvalidArgument as error:
            raise Refusal(RefusalReason.WRONG_SUBJECT) from error
        token.verify(await self._client_key(client_id, token.kid))
        seen.subject = client_id
        expires_at = datetime.fromtimestamp(token.claims["exp"], UTC)
        if not await self._store.use_assertion(client_id, token_id, expires_at + _ID_MARGIN):
            raise Refusal(RefusalReason.REPLAYED)
        return client_id

    async def _client_key(self, client_id: str, kid: str) -> ForeignKey | None:
        found = await self._store.find_client_key(client_id, kid)
        return foreign_key(read_object(found.jwk)) if found else None


def _check_subject(issuer: Issuer, subject: str, claims: dict[str, Any]) -> None:
    """Check that a proved subject is one that this kind of issuer vouches for. Raises Refusal."""
    match issuer.kind:
        case IssuerKind.SPIFFE:
            if _trust_domain(subject) != issuer.name:
                raise Refusal(RefusalReason.WRONG_SUBJECT)
        case IssuerKind.KUBERNETES:
            bound = claims.get("kubernetes.io")
            account = bound.get("serviceaccount") if type(bound) is dict else None
            name = account.get("name") if type(account) is dict else None
            namespace = bound.get("namespace") if type(bound) is dict else None
            if subject != f"system:serviceaccount:{namespace}:{name}":
                raise Refusal(RefusalReason.WRONG_SUBJECT)


def _trust_domain(subject: str) -> str:
    match = SPIFFE_ID.fullmatch(subject)
    return match["domain"] if match and len(subject) <= foreign.MAX_SUBJECT else ""


def _proved(seen: _Seen) -> dict[str, str | None]:
    return {"way": seen.way or None, "issuer": seen.issuer or None, "subject": seen.subject or None}
