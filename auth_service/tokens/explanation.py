"""Explains why an access token is active or not: each check of TokenVerifier, with its value.

Owns the words. All checks are made, also after one has failed, in the order in which `verify` makes
them. The reason of the first that fails is the reason that `verify` gives.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple, TypeVar

from auth_service.errors import InactiveReason, InvalidToken
from auth_service.models import KeyState, StoredKey
from auth_service.tokens import jws
from auth_service.tokens.access import ACCESS_TOKEN_TYPE, AccessClaims, read_access_claims
from auth_service.tokens.keys import KeyRing, SigningKey
from auth_service.tokens.revocation import RevocationList

__all__ = ["Check", "Explanation", "Outcome", "Question", "View", "explain"]

Result = TypeVar("Result")

_OF_CLAIMS = (
    *("issuer", "expiry", "start", "audience", "revocation", "certificate", "scope", "roles"),
    *("auth_time", "acr"),
)
_NEVER_READ = "the token has no readable claims"


class Outcome(StrEnum):
    """What came of a check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_CHECKED = "not_checked"


class Check(NamedTuple):
    """One check. `detail` says what was compared with what; it never has the token in it."""

    name: str
    outcome: Outcome
    detail: str
    reason: InactiveReason | None = None
    """Why the token is not active; only if the check failed."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a token is asked for; an empty audience accepts any."""

    audience: str = ""
    required_scope: tuple[str, ...] = ()
    required_roles: tuple[str, ...] = ()
    certificate_thumbprint: str = ""
    """Of the certificate of who presents the token; empty if it presents none."""
    max_age: timedelta | None = None
    acr_values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """What a verifier knows at one moment. `stored` are all keys of the database, by `kid`."""

    ring: KeyRing
    stored: Mapping[str, StoredKey]
    revocations: RevocationList
    issuer: str
    now: datetime
    clock_skew: timedelta


@dataclass(frozen=True, slots=True)
class Explanation:
    """The checks in order, and the claims if they could be read."""

    checks: tuple[Check, ...]
    claims: AccessClaims | None
    genuine: bool
    """Whether a trusted key signed the claims. If not, anybody may have made them."""

    @property
    def reason(self) -> InactiveReason | None:
        """The reason of the first check that failed; None if the token is active."""
        return next((check.reason for check in self.checks if check.reason is not None), None)


def explain(token: str, view: View, question: Question) -> Explanation:
    """Return every check of an access token, against what `view` knows. Does no I/O."""
    return _Explainer(view).explain(token, question)


class _Explainer:
    def __init__(self, view: View) -> None:
        self._view = view
        self._now = view.now.timestamp()
        self._checks: list[Check] = []

    def explain(self, token: str, question: Question) -> Explanation:
        parts = self._attempt(lambda: jws.split(token))
        if parts is None:
            self._failed("form", InactiveReason.MALFORMED, _form(token))
            for name in ("header", "type", "key", "signature"):
                self._skipped(name, "the token is not three segments of base64url")
            return self._without_claims(genuine=False)
        header, payload, signature = parts
        self._passed("form", f"{len(token)} bytes in three segments of base64url")
        key = self._key(header)
        genuine = self._signature(token, signature, key)
        claims = self._attempt(lambda: read_access_claims(jws.read_claims(payload)))
        if claims is None:
            detail = "a claim is missing, has a wrong type or is out of range"
            self._failed("claims", InactiveReason.MALFORMED, detail)
            return self._without_claims(genuine)
        self._passed("claims", "all that an access token needs (RFC 9068 section 2.2)")
        self._issuer(claims)
        self._times(claims)
        self._audience(claims, question.audience)
        self._revocation(claims)
        self._certificate(claims, question.certificate_thumbprint)
        self._required("scope", claims.scope, question.required_scope)
        self._required("roles", claims.roles, question.required_roles)
        self._login(claims, question)
        return Explanation(tuple(self._checks), claims, genuine)

    # The token

    def _key(self, segment: str) -> SigningKey | None:
        header = self._attempt(lambda: jws.read_header(segment))
        if header is None:
            detail = "it does not have the parameters typ, alg and kid, and only these"
            self._failed("header", InactiveReason.MALFORMED, detail)
            self._skipped("type", "the header cannot be read")
            self._skipped("key", "the header cannot be read")
            return None
        self._passed("header", "it has the parameters typ, alg and kid, and only these")
        if header.typ == ACCESS_TOKEN_TYPE:
            self._passed("type", f"typ is {ACCESS_TOKEN_TYPE}")
        else:
            detail = f"typ is {_quoted(header.typ)}, not {ACCESS_TOKEN_TYPE}"
            self._failed("type", InactiveReason.WRONG_TYPE, detail)
        key, known = self._view.ring.get(header.kid), self._state(header.kid)
        if key is None:
            detail = f"no trusted key has kid {_quoted(header.kid)}; {known}"
            self._failed("key", InactiveReason.UNKNOWN_KEY, detail)
        elif key.algorithm != header.alg:
            detail = f"alg is {_quoted(header.alg)}, but key {key.kid} is for {key.algorithm}"
            self._failed("key", InactiveReason.UNKNOWN_KEY, detail)
            key = None
        else:
            self._passed("key", f"kid {key.kid}, {key.algorithm}: {known}")
        return key

    def _state(self, kid: str) -> str:
        stored = self._view.stored.get(kid)
        if stored is None:
            given = self._view.ring.get(kid) is not None
            return "the shared key of the settings" if given else "the database has no such key"
        match state := stored.state(self._view.now):
            case KeyState.COMPROMISED:
                since = stored.compromised_at
            case KeyState.REMOVED:
                since = stored.remove_at
            case KeyState.RETIRED:
                since = stored.retire_at
            case KeyState.ACTIVE:
                since = stored.activate_at
            case _:
                return f"{state}, and signs from {_moment(stored.activate_at)}"
        return f"{state} since {_moment(since)}"

    def _signature(self, token: str, signature: str, key: SigningKey | None) -> bool:
        if key is None:
            self._skipped("signature", "there is no key to check it with")
            return False
        try:
            jws.verify_signature(token, signature, key)
        except InvalidToken as error:
            malformed = error.inactive_reason is InactiveReason.MALFORMED
            detail = "it is not canonical base64url" if malformed else "it does not match"
            self._failed("signature", error.inactive_reason, detail)
            return False
        self._passed("signature", "it matches")
        return True

    # The claims

    def _issuer(self, claims: AccessClaims) -> None:
        if claims.issuer == self._view.issuer:
            self._passed("issuer", f"iss is {_quoted(claims.issuer)}")
        else:
            detail = f"iss is {_quoted(claims.issuer)}, not {_quoted(self._view.issuer)}"
            self._failed("issuer", InactiveReason.WRONG_ISSUER, detail)

    def _times(self, claims: AccessClaims) -> None:
        left = claims.expires_at - self._now
        detail = f"exp is {_time(claims.expires_at)}, {_span(left)}"
        if left > 0:
            self._passed("expiry", detail)
        else:
            self._failed("expiry", InactiveReason.EXPIRED, detail)
        begins = max(claims.issued_at, claims.not_before)
        skew = self._view.clock_skew.total_seconds()
        detail = f"iat is {_time(claims.issued_at)}"
        if claims.not_before:
            detail += f", nbf is {_time(claims.not_before)}"
        detail += f"; the later is {_span(begins - self._now)}, and clocks may differ by {skew:g} s"
        if begins > self._now + skew:
            self._failed("start", InactiveReason.NOT_YET_VALID, detail)
        else:
            self._passed("start", detail)

    def _audience(self, claims: AccessClaims, audience: str) -> None:
        has = f"aud is {_listed(claims.audience)}"
        if not audience:
            self._passed("audience", f"{has}; any is accepted")
        elif audience in claims.audience:
            self._passed("audience", f"{has}, with {_quoted(audience)} in it")
        else:
            detail = f"{has}, without {_quoted(audience)}"
            self._failed("audience", InactiveReason.WRONG_AUDIENCE, detail)

    def _revocation(self, claims: AccessClaims) -> None:
        reason = self._view.revocations.check(claims)
        if reason is None:
            self._passed("revocation", "no revocation that is known here covers it")
            return
        what = {
            InactiveReason.TOKEN_REVOKED: "the token, or one that it was exchanged for, is revoked",
            InactiveReason.SESSION_REVOKED: "its session is revoked",
            InactiveReason.USER_REVOKED: "the tokens of its subject, or of one who acts for it, "
            "are revoked up to a later moment than it was issued",
        }
        self._failed("revocation", reason, what[reason])

    def _certificate(self, claims: AccessClaims, presented: str) -> None:
        bound_to = claims.certificate_thumbprint
        if not bound_to:
            self._passed("certificate", "it is not bound to a certificate")
        elif bound_to == presented:
            self._passed("certificate", "it is bound to the certificate that was presented")
        else:
            other = "and another was presented" if presented else "and none was presented"
            detail = f"it is bound to the certificate {bound_to}, {other}"
            self._failed("certificate", InactiveReason.WRONG_CERTIFICATE, detail)

    def _required(self, name: str, held: tuple[str, ...], required: tuple[str, ...]) -> None:
        missing = [each for each in required if each not in held]
        if missing:
            reason = {
                "scope": InactiveReason.INSUFFICIENT_SCOPE,
                "roles": InactiveReason.INSUFFICIENT_ROLE,
            }[name]
            self._failed(name, reason, f"it has {_listed(held)}, and lacks {_listed(missing)}")
        else:
            asked = _listed(required) if required else "none"
            self._passed(name, f"it has {_listed(held)}; required: {asked}")

    def _login(self, claims: AccessClaims, question: Question) -> None:
        reason = InactiveReason.INSUFFICIENT_USER_AUTHENTICATION
        age, skew = self._now - claims.auth_time, self._view.clock_skew.total_seconds()
        detail = f"auth_time is {_time(claims.auth_time)}, {_span(-age)}; "
        if question.max_age is None:
            self._passed("auth_time", f"{detail}any age is accepted")
        else:
            longest = question.max_age.total_seconds()
            detail += f"the limit is {longest:g} s, and clocks may differ by {skew:g} s"
            if self._now <= claims.auth_time + longest + skew:
                self._passed("auth_time", detail)
            else:
                self._failed("auth_time", reason, detail)
        detail = f"acr is {_quoted(claims.acr)}" if claims.acr else "it has no acr"
        if not question.acr_values:
            self._passed("acr", f"{detail}; any is accepted")
        elif claims.acr and claims.acr in question.acr_values:
            self._passed("acr", f"{detail}, one of {_listed(question.acr_values)}")
        else:
            self._failed("acr", reason, f"{detail}, not one of {_listed(question.acr_values)}")

    # Results

    def _without_claims(self, genuine: bool) -> Explanation:
        if not any(check.name == "claims" for check in self._checks):
            self._skipped("claims", "the token is not three segments of base64url")
        for name in _OF_CLAIMS:
            self._skipped(name, _NEVER_READ)
        return Explanation(tuple(self._checks), None, genuine)

    def _attempt(self, work: Callable[[], Result]) -> Result | None:
        try:
            return work()
        except InvalidToken:
            return None

    def _passed(self, name: str, detail: str) -> None:
        self._checks.append(Check(name, Outcome.PASSED, detail))

    def _failed(self, name: str, reason: InactiveReason, detail: str) -> None:
        self._checks.append(Check(name, Outcome.FAILED, detail, reason))

    def _skipped(self, name: str, why: str) -> None:
        self._checks.append(Check(name, Outcome.NOT_CHECKED, why))


def _form(token: str) -> str:
    if len(token) > jws.MAX_TOKEN_LENGTH:
        return f"it has {len(token)} characters; the maximum is {jws.MAX_TOKEN_LENGTH}"
    return f"its {len(token)} characters are not three segments of base64url with dots between"


def _quoted(text: str) -> str:
    shown = text if len(text) <= jws.MAX_NAME_LENGTH else f"{text[: jws.MAX_NAME_LENGTH]}…"
    return f'"{shown}"'


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(map(_quoted, names)) or "nothing"


def _moment(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _time(epoch_seconds: int) -> str:
    return _moment(datetime.fromtimestamp(epoch_seconds, UTC))


def _span(seconds: float) -> str:
    return f"in {seconds:.0f} s" if seconds > 0 else f"{-seconds:.0f} s ago"
