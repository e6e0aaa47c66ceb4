"""Tokens that other issuers sign: a strict check of form, signature, times, audience and type.

RFC 7523 section 3, and RFC 8725 for what a careless check lets through. Owns what any such token
must say. Whose token it is, and which account it opens, is decided in `core.workloads` and
`core.old_issuers`.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from auth_service.errors import InvalidToken
from auth_service.tokens import jws
from auth_service.tokens.foreign_keys import ALGORITHMS, ForeignKey

__all__ = [
    "MAX_LENGTH",
    "MAX_SUBJECT",
    "Refusal",
    "RefusalReason",
    "Rules",
    "Token",
    "read",
    "text",
]

MAX_LENGTH = 8192
"""Bytes; checked before anything else."""
MAX_SUBJECT = 2048
"""Characters of `sub` and `iss`: the longest SPIFFE ID (SPIFFE ID section 2.3)."""

_MAX_HEADER_TEXT = 256
_THUMBPRINTS = frozenset({"x5t", "x5t#S256"})  # say nothing that is used, and are common


class RefusalReason(StrEnum):
    """Why nobody is let in by a token. It goes to the log, and never to a client."""

    MALFORMED = "malformed"
    WRONG_TYPE = "wrong_type"
    WRONG_ALGORITHM = "wrong_algorithm"
    UNKNOWN_ISSUER = "unknown_issuer"
    UNKNOWN_KEY = "unknown_key"
    BAD_SIGNATURE = "bad_signature"
    WRONG_AUDIENCE = "wrong_audience"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    TOO_OLD = "too_old"
    TOO_LONG_LIVED = "too_long_lived"
    WRONG_SUBJECT = "wrong_subject"
    WRONG_CLAIM = "wrong_claim"
    WRONG_CLIENT = "wrong_client"
    NOT_MAPPED = "not_mapped"
    REPLAYED = "replayed"
    NO_ACCOUNT = "no_account"
    DISABLED = "disabled"
    NO_CERTIFICATE = "no_certificate"
    CUT_OFF = "cut_off"
    SIGNED_OUT = "signed_out"


class Refusal(Exception):
    """A token that lets nobody in. It never holds the token or a part of it."""

    def __init__(self, reason: RefusalReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Rules:
    """What the tokens of an issuer must say."""

    audiences: frozenset[str] | None
    """`aud` is exactly one of these: another recipient could present a token that is also its.
    None if `aud` may say anything."""
    max_lifetime: timedelta = timedelta(hours=24)
    """From `iat` to `exp`."""
    max_age: timedelta = timedelta(hours=24)
    """Since `iat`."""
    algorithms: frozenset[str] = frozenset(ALGORITHMS)
    types: frozenset[str | None] = frozenset({None, "JWT"})
    """The values of `typ`; None if it may be absent (RFC 8725 section 3.11)."""
    extra_header: frozenset[str] = _THUMBPRINTS
    """Header parameters next to `alg`, `kid` and `typ` that are ignored."""
    requires_issued_at: bool = True
    """Whether `iat` is required. Without it `exp` alone bounds the lifetime, from now on."""
    alone: bool = True
    """Whether `aud` must name no other audience."""


class Token(NamedTuple):
    """A token as it was presented: nothing of it is proved before `verify`."""

    signing_input: bytes
    signature: bytes
    header: dict[str, Any]
    claims: dict[str, Any]

    @property
    def kid(self) -> str:
        """The id of the key that signed it."""
        kid: str = self.header["kid"]
        return kid

    def check(self, rules: Rules, now: datetime, skew: timedelta) -> None:
        """Check the header, the audience and the times. Raises Refusal."""
        if self.header.keys() - {"alg", "kid", "typ"} - rules.extra_header:
            raise Refusal(RefusalReason.MALFORMED)  # as `crit`, `jku`, `jwk` and `x5c`
        if self.header.get("typ") not in rules.types:
            raise Refusal(RefusalReason.WRONG_TYPE)
        if self.header["alg"] not in rules.algorithms:
            raise Refusal(RefusalReason.WRONG_ALGORITHM)
        self._check_audience(rules)
        self._check_times(rules, int(now.timestamp()), int(skew.total_seconds()))

    def verify(self, key: ForeignKey | None) -> None:
        """Check the signature. Raises Refusal."""
        if key is None:
            raise Refusal(RefusalReason.UNKNOWN_KEY)
        algorithm = self.header["alg"]
        if algorithm not in key.algorithms:
            raise Refusal(RefusalReason.WRONG_ALGORITHM)
        if not key.verify(algorithm, self.signing_input, self.signature):
            raise Refusal(RefusalReason.BAD_SIGNATURE)

    def _check_audience(self, rules: Rules) -> None:
        if rules.audiences is None:
            return
        audience = self.claims.get("aud")
        named = audience if type(audience) is list else [audience]
        known = [type(each) is str and each in rules.audiences for each in named]
        if not any(known) or (rules.alone and len(named) != 1):
            raise Refusal(RefusalReason.WRONG_AUDIENCE)

    def _check_times(self, rules: Rules, now: int, skew: int) -> None:
        expires_at = _seconds(self.claims, "exp")
        given = rules.requires_issued_at or "iat" in self.claims
        issued_at = _seconds(self.claims, "iat") if given else now
        if expires_at <= now:
            raise Refusal(RefusalReason.EXPIRED)
        starts_at = max(issued_at, _seconds(self.claims, "nbf") if "nbf" in self.claims else 0)
        if starts_at > now + skew:
            raise Refusal(RefusalReason.NOT_YET_VALID)
        if expires_at - issued_at > rules.max_lifetime.total_seconds():
            raise Refusal(RefusalReason.TOO_LONG_LIVED)
        if now - issued_at > rules.max_age.total_seconds():
            raise Refusal(RefusalReason.TOO_OLD)


def read(token: str, longest: int = MAX_LENGTH, *, with_kid: bool = True) -> Token:
    """Return the parts of a token, all of them unproved. Raises Refusal if it is malformed.

    Without `with_kid` its header may name no key.
    """
    try:
        header, payload, signature = jws.split(token, longest)
        read_token = Token(
            f"{header}.{payload}".encode(),
            jws.decode(signature),
            jws.read_object(header),
            jws.read_object(payload),
        )
    except InvalidToken as error:
        raise Refusal(RefusalReason.MALFORMED) from error
    required = {"alg", "kid"} if with_kid else {"alg"}
    for name in required | ({"kid", "typ"} & read_token.header.keys()):
        text(read_token.header, name, _MAX_HEADER_TEXT)
    return read_token


def text(values: dict[str, Any], name: str, longest: int = MAX_SUBJECT) -> str:
    """Return a member that must be printable text of 1 to `longest` characters. Raises Refusal."""
    value = values.get(name)
    if type(value) is not str or not 0 < len(value) <= longest or not value.isprintable():
        raise Refusal(RefusalReason.MALFORMED)
    return value


def _seconds(claims: dict[str, Any], name: str) -> int:
    try:
        return jws.seconds(claims, name)
    except InvalidToken as error:
        raise Refusal(RefusalReason.MALFORMED) from error
