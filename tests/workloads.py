"""Issuers of workload tokens as the tests have them, and tokens that are wrong in one respect."""

import base64
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms

from auth_service.core.workloads import Issuer, IssuerKind
from auth_service.models import WorkloadMapping
from auth_service.tokens.foreign import RefusalReason, Rules
from auth_service.tokens.foreign_keys import TrustedKeys, foreign_keys

AUDIENCE = "https://auth.test"
CLUSTER = "https://kubernetes.default.svc.cluster.local"
TRUST_DOMAIN = "spiffe://example.org"
CI = "https://ci.example.com"
HOUR = timedelta(hours=1)
BILLING = "billing"

SUBJECTS = {
    IssuerKind.KUBERNETES: "system:serviceaccount:shop:billing",
    IssuerKind.SPIFFE: f"{TRUST_DOMAIN}/ns/shop/sa/billing",
    IssuerKind.JWKS: "repo:acme/billing:ref:refs/heads/main",
}
_IMPLEMENTED = get_default_algorithms()
_RSA = rsa.generate_private_key(65537, 2048)
_OTHER_RSA = rsa.generate_private_key(65537, 2048)


@dataclass(frozen=True)
class Key:
    """A key pair of an issuer, and the one algorithm by which it signs."""

    kid: str
    algorithm: str
    private: Any = field(repr=False)

    def jwk(self, **members: Any) -> dict[str, Any]:
        """Return the public key; RSA keys name no algorithm, as some issuers leave it out."""
        jwk = dict(_IMPLEMENTED[self.algorithm].to_jwk(self.private.public_key(), as_dict=True))
        return jwk | {"kid": self.kid} | members

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        """Return a token; a header parameter that is None is left out."""
        parameters = {"alg": self.algorithm, "kid": self.kid} | header
        parameters = {name: value for name, value in parameters.items() if value is not None}
        return self.seal(f"{encode(parameters)}.{encode(claims)}")

    def seal(self, signing_input: str) -> str:
        """Return the token of two encoded segments."""
        signature = _IMPLEMENTED[self.algorithm].sign(signing_input.encode(), self.private)
        return f"{signing_input}.{base64url(signature)}"


def base64url(raw: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def encode(value: dict[str, Any]) -> str:
    """Return a segment of a token."""
    return base64url(json.dumps(value, separators=(",", ":")).encode())


def jwks(*keys: dict[str, Any]) -> str:
    """Return a JWK Set."""
    return json.dumps({"keys": keys})


@dataclass(frozen=True)
class Platform:
    """An issuer, with the private keys that only it has."""

    kind: IssuerKind
    name: str
    keys: tuple[Key, ...]

    @classmethod
    def new(cls, kind: IssuerKind) -> "Platform":
        """Return a platform with keys as its kind has them."""
        name = {"kubernetes": CLUSTER, "spiffe": TRUST_DOMAIN, "jwks": CI}[kind]
        keys: tuple[Key, ...] = (
            Key(f"{kind}-rsa", "RS256", _RSA),
            Key(f"{kind}-ec", "ES256", ec.generate_private_key(ec.SECP256R1())),
            Key(f"{kind}-pss", "PS384", rsa.generate_private_key(65537, 2048)),
        )
        if kind is not IssuerKind.SPIFFE:
            keys += (Key(f"{kind}-ed", "EdDSA", ed25519.Ed25519PrivateKey.generate()),)
        return cls(kind, name, keys)

    @property
    def subject(self) -> str:
        """The subject that is mapped to BILLING."""
        return SUBJECTS[self.kind]

    def jwks(self) -> str:
        """Return its JWK Set."""
        use = "jwt-svid" if self.kind is IssuerKind.SPIFFE else "sig"
        return jwks(*(key.jwk(use=use) for key in self.keys))

    def issuer(self, now: datetime, **rules: Any) -> Issuer:
        """Return it as it is configured."""
        use = "jwt-svid" if self.kind is IssuerKind.SPIFFE else "sig"
        trusted = TrustedKeys()
        trusted.replace(foreign_keys(self.jwks(), (use,))[0], now)
        return Issuer(
            self.name,
            self.kind,
            Rules(frozenset([AUDIENCE]), HOUR, HOUR, **rules),
            trusted,
            {self.subject: WorkloadMapping(self.name, self.subject, BILLING)},
        )

    def claims(self, now: datetime) -> dict[str, Any]:
        """Return the claims of a good token, in the form that the platform documents."""
        issued_at = int(now.timestamp()) - 60
        times = {"iat": issued_at, "exp": issued_at + 3600}
        match self.kind:
            case IssuerKind.KUBERNETES:  # of a projected volume, Kubernetes 1.34
                return times | {
                    "aud": [AUDIENCE],
                    "iss": CLUSTER,
                    "jti": "aed34954-b33a-4142-b1ec-389d6bbb4936",
                    "kubernetes.io": {
                        "namespace": "shop",
                        "node": {"name": "node-1", "uid": "646e7c5e-32d6-4d42-9dbd-e504e6cbe6b1"},
                        "pod": {"name": "billing-0", "uid": "5e0bd49b-f040-43b0-99b7-22765a53f7f3"},
                        "serviceaccount": {
                            "name": "billing",
                            "uid": "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798",
                        },
                    },
                    "nbf": issued_at,
                    "sub": self.subject,
                }
            case IssuerKind.SPIFFE:
                return times | {"aud": [AUDIENCE], "sub": self.subject}
            case IssuerKind.JWKS:
                return times | {
                    "aud": AUDIENCE,
                    "iss": CI,
                    "nbf": issued_at,
                    "jti": secrets.token_hex(16),
                    "sub": self.subject,
                    "repository": "acme/billing",
                }

    def token(self, now: datetime, key: int = 0, **changes: Any) -> str:
        """Return a good token with some claims changed; None leaves a claim out."""
        claims = self.claims(now) | changes
        kept = {name: value for name, value in claims.items() if value is not None}
        return self.keys[key].sign(kept)


Fault = Callable[[Platform, Key, datetime, Random], tuple[str, set[RefusalReason]]]
_R = RefusalReason


def _claims(platform: Platform, now: datetime, **changes: Any) -> dict[str, Any]:
    claims = platform.claims(now) | changes
    return {name: value for name, value in claims.items() if value is not None}


def wrong_audience(p: Platform, key: Key, now: datetime, random: Random) -> tuple[str, set[_R]]:
    """Another audience, one more, one that only looks the same, or none."""
    wrong = random.choice(
        [
            None,
            [],
            "",
            AUDIENCE + "/",
            AUDIENCE.upper(),
            f"x{AUDIENCE}",
            "billing",
            [AUDIENCE, "x"],
            ["x"],
            [[AUDIENCE]],
            {"aud": AUDIENCE},
            1,
            True,
            [AUDIENCE, AUDIENCE],
        ]
    )
    return key.sign(_claims(p, now, aud=wrong)), {_R.WRONG_AUDIENCE}


def wrong_subject(p: Platform, key: Key, now: datetime, random: Random) -> tuple[str, set[_R]]:
    """A subject that nobody mapped, also by one character, or none."""
    at = random.randrange(len(p.subject))
    wrong = random.choice(
        [
            p.subject[:at] + "~" + p.subject[at + 1 :],
            p.subject + "x",
            p.subject[:-1],
            p.subject.upper(),
            p.subject + "\n",
            "",
            1,
            ["x"],
            None,
            f" {p.subject}",
        ]
    )
    expected = {_R.WRONG_SUBJECT, _R.NOT_MAPPED, _R.MALFORMED, _R.UNKNOWN_ISSUER}
    return key.sign(_claims(p, now, sub=wrong)), expected


def wrong_issuer(p: Platform, key: Key, now: datetime, random: Random) -> tuple[str, set[_R]]:
    """Another issuer: an unknown one, or a known one whose keys are others."""
    if p.kind is IssuerKind.SPIFFE:  # the trust domain of the subject is the issuer
        wrong = random.choice(["spiffe://example.com", "spiffe://example.org.evil", "spiffe://x"])
        subject = p.subject.replace(TRUST_DOMAIN, wrong)
        return key.sign(_claims(p, now, sub=subject)), {_R.MALFORMED, _R.UNKNOWN_ISSUER}
    others = [CI, CLUSTER, TRUST_DOMAIN, p.name + "/", p.name.upper(), "", "https://x", None, 1]
    other = random.choice([name for name in others if name != p.name])
    expected = {_R.UNKNOWN_ISSUER, _R.UNKNOWN_KEY, _R.MALFORMED, _R.BAD_SIGNATURE}
    return key.sign(_claims(p, now, iss=other)), expected


def wrong_expiry(p: Platform, key: Key, now: datetime, random: Random) -> tuple[str, set[_R]]:
    """Expired, without an expiry, with one that is no number, or valid for too long."""
    at = int(now.timestamp())
    wrong = random.choice(
        [
            at - random.randrange(3600),
            at,
            None,
            str(at + 60),
            at + 60.0,
            True,
            -1,
            10**400,
            at + 3600 * random.randrange(2, 9999),
        ]
    )
    expected = {_R.EXPIRED, _R.MALFORMED, _R.TOO_LONG_LIVED}
    return key.sign(_claims(p, now, exp=wrong)), expected


def wrong_age(p: Platform, key: Key, now: datetime, random: Random) -> tuple[str, set[_R]]:
    """Too old, or not valid yet."""
    at = int(now.timestamp())
    if random.random() < 0.5:
        issued_at = at - 3601 - random.randrange(10**6)
        claims = _claims(p, now, iat=issued_at, nbf=None, exp=at + 60)
        return key.sign(claims), {_R.TOO_OLD, _R.TOO_LONG_LIVED}
    name = random.choice(["iat", "nbf"])
    start = random.choice([at + 11 + random.randrange(10**6), str(at), at + 0.5, "", 2**40])
    claims = _claims(p, now, **{name: start}) | {"exp": at + 1800}
    return key.sign(claims), {_R.NOT_YET_VALID, _R.MALFORMED, _R.TOO_LONG_LIVED}


def wrong_signature(p: Platform, key: Key, now: datetime, random: Random) -> tuple[str, set[_R]]:
    """A bit of the signature, a claim after signing, or the key of somebody else."""
    token = key.sign(_claims(p, now))
    header, payload, signature = token.split(".")
    match random.randrange(4):
        case 0:
            raw = bytearray(base64.urlsafe_b64decode(signature + "=="))
            raw[random.randrange(len(raw))] ^= 1 << random.randrange(8)
            signature = base64url(bytes(raw))
        case 1:
            payload = encode(_claims(p, now, exp=int(now.timestamp()) + 3000))
        case 2:
            other = Key("x", "RS256", _OTHER_RSA)
            signature = other.sign({}).rpartition(".")[2]
        case _:
            signature = base64url(random.randbytes(random.choice([1, 32, 64, 256])))
    return f"{header}.{payload}.{signature}", {_R.BAD_SIGNATURE, _R.MALFORMED}


def wrong_algorithm(p: Platform, key: Key, now: datetime, random: Random) -> tuple[str, set[_R]]:
    """None, a shared secret made of the public key, or an algorithm of another type of key."""
    algorithm: Any
    algorithm = random.choice(["none", "None", "HS256", "HS384", "HS512", "RS1", "ES256K", "", 1])
    others = {"RS256": "ES256", "ES256": "PS256", "PS384": "EdDSA", "EdDSA": "RS256"}
    if random.random() < 0.3:
        algorithm = others[key.algorithm]
    signing_input = f"{encode({'alg': algorithm, 'kid': key.kid})}.{encode(_claims(p, now))}"
    if str(algorithm).startswith("HS"):
        public = key.private.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        mac = _IMPLEMENTED[algorithm]
        signature = mac.sign(signing_input.encode(), public)
    else:
        signature = _IMPLEMENTED[key.algorithm].sign(signing_input.encode(), key.private)
    expected = {_R.WRONG_ALGORITHM, _R.MALFORMED}
    return f"{signing_input}.{base64url(signature)}", expected


def wrong_kid(p: Platform, key: Key, now: datetime, random: Random) -> tuple[str, set[_R]]:
    """An unknown key, none, or another of the same issuer."""
    others = [each.kid for each in p.keys if each.kid != key.kid]
    wrong = random.choice([*others, None, "", "x", f"{key.kid} ", key.kid.upper(), 1, ["x"]])
    expected = {_R.UNKNOWN_KEY, _R.MALFORMED, _R.BAD_SIGNATURE, _R.WRONG_ALGORITHM}
    return key.sign(_claims(p, now), kid=wrong), expected


def wrong_type(p: Platform, key: Key, now: datetime, random: Random) -> tuple[str, set[_R]]:
    """A token for another use, or a header with what must not be followed (RFC 8725)."""
    types: list[Any] = ["at+jwt", "rt+jwt", "dpop+jwt", "logout+jwt", "", 1, ["JWT"]]
    headers: list[dict[str, Any]] = [{"typ": each} for each in types]
    headers += [{"crit": ["exp"]}, {"jku": "https://x/jwks"}, {"jwk": key.jwk()}, {"zip": "DEF"}]
    headers += [{"x5c": ["AAAA"]}, {"x5u": "https://x"}, {"b64": False, "crit": ["b64"]}]
    header = random.choice(headers)
    return key.sign(_claims(p, now), **header), {_R.WRONG_TYPE, _R.MALFORMED}


FAULTS: tuple[Fault, ...] = (
    wrong_audience,
    wrong_subject,
    wrong_issuer,
    wrong_expiry,
    wrong_age,
    wrong_signature,
    wrong_algorithm,
    wrong_kid,
    wrong_type,
)
