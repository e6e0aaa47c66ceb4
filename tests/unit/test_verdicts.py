"""The answers of Validate in bytes: the same ones that protobuf makes."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from authn.v1 import auth_service_pb2 as pb

from auth_service.core.validation import Validation, Verdict
from auth_service.errors import InactiveReason, RevocationsStale
from auth_service.models import Revocation, RevocationKind
from auth_service.rpc.verdicts import LONGEST_REMEMBERED, Batch, Verdicts
from auth_service.tokens.access import AccessClaims, TokenSigner, TokenVerifier
from auth_service.tokens.delegation import Link
from auth_service.tokens.keys import KeyRing, generate_key
from auth_service.tokens.revocation import RevocationList
from tests.clock import FakeClock

AS_OF = datetime(2026, 11, 21, 9, 30, 0, 123456, UTC)
CLAIMS = AccessClaims(
    issuer="https://auth.test",
    subject="alice",
    audience=("billing", "orders"),
    expires_at=int(AS_OF.timestamp()) + 900,
    issued_at=int(AS_OF.timestamp()),
    token_id="jti",
    session_id="sid",
    client_id="web",
    scope=("read",),
    roles=("user",),
    auth_time=int(AS_OF.timestamp()) - 10,
    amr=("pwd",),
)


REQUEST = b"a request"
HOUR = timedelta(hours=1)


class Replica:
    """Verdicts of a service that has heard of every revocation up to AS_OF."""

    def __init__(self, cache_size: int = 10) -> None:
        self.clock = FakeClock(AS_OF)
        self.as_of = AS_OF
        key = generate_key("HS256")
        self.ring = KeyRing([key], key.kid)
        self.revocations = RevocationList(self.clock)
        verifier = TokenVerifier(
            self.ring,
            self.revocations,
            issuer=CLAIMS.issuer,
            clock=self.clock,
            cache_size=cache_size,
        )
        limit = timedelta(seconds=5)
        self.validation = Validation(verifier, lambda: self.as_of, limit, self.clock)
        self.verdicts = Verdicts(self.validation)
        self.token = TokenSigner(self.ring).sign(CLAIMS)

    def ask_bound(self, request: bytes, token: str, certificate: str) -> bytes:
        """Answer a request for a bound token, presented with a certificate."""
        verdict = self.validation.validate(token, certificate_thumbprint=certificate)
        return self.verdicts.response(verdict, token, request, certificate)

    def ask(self, request: bytes) -> None:
        """Answer a request for the token as AuthService does when no answer is remembered."""
        verdict = self.validation.validate(self.token)
        assert verdict.claims == CLAIMS
        self.verdicts.response(verdict, self.token, request)

    def remember(self, request: bytes) -> None:
        """Ask until the answer is remembered."""
        for _ in range(2):
            self.ask(request)
        assert self.verdicts.again(request) is not None

    def revoke(self, kind: RevocationKind, target: str) -> None:
        """Hear of a revocation."""
        self.revocations.add(Revocation(kind, target, AS_OF + HOUR, AS_OF + HOUR))


@pytest.fixture
def replica() -> Replica:
    """A replica that remembers ten requests."""
    return Replica()


@pytest.fixture
def verdicts(replica: Replica) -> Verdicts:
    """The replica's."""
    return replica.verdicts


def parsed(encoded: bytes) -> Any:
    """Read an answer, and see that nobody else would have written it otherwise."""
    response = pb.ValidateResponse.FromString(encoded)
    assert response.SerializeToString(deterministic=True) == encoded
    return response


def test_an_active_token_is_answered_with_its_claims_and_the_time_of_now(
    verdicts: Verdicts,
) -> None:
    """Also the second time, when only the time is another."""
    for as_of in (AS_OF, AS_OF.replace(hour=10)):
        response = parsed(verdicts.response(Verdict(CLAIMS, None, as_of)))
        assert (response.active, response.claims.subject) == (True, "alice")
        assert list(response.claims.audience) == ["billing", "orders"]
        assert response.claims.expires_at.seconds == CLAIMS.expires_at
        assert response.revocations_as_of.ToDatetime(UTC) == as_of


def test_the_actors_of_an_exchanged_token_are_nested(verdicts: Verdicts) -> None:
    """As in the claim `act` (RFC 8693 section 4.1); the token of a login has none."""
    chain = (Link("orders", 1, "b", 1), Link("gateway", 1, "a", 1))
    response = parsed(verdicts.response(Verdict(CLAIMS._replace(chain=chain), None, AS_OF)))
    inner = pb.Actor(subject="gateway")
    assert response.claims.actor == pb.Actor(subject="orders", actor=inner)
    response = parsed(verdicts.response(Verdict(CLAIMS, None, AS_OF)))
    assert not response.claims.HasField("actor")


def test_two_tokens_of_one_id_are_told_apart(verdicts: Verdicts) -> None:
    """A refresh may narrow the scope of a token whose id stays."""
    for claims in (CLAIMS, CLAIMS._replace(scope=()), CLAIMS):
        response = parsed(verdicts.response(Verdict(claims, None, AS_OF)))
        assert tuple(response.claims.scope) == claims.scope


@pytest.mark.parametrize("reason", InactiveReason)
def test_an_inactive_token_is_answered_with_the_reason_alone(
    verdicts: Verdicts, reason: InactiveReason
) -> None:
    """And with no claims."""
    response = parsed(verdicts.response(Verdict(None, reason, AS_OF)))
    assert pb.InactiveReason.Name(response.inactive_reason) == f"INACTIVE_REASON_{reason.name}"
    assert not response.HasField("claims")
    assert not response.active


@pytest.mark.parametrize("size", [0, 1, 120, 127, 128, 16_380, 16_384, 70_000])
def test_a_batch_is_read_and_written_as_protobuf_does_with_its_members(size: int) -> None:
    """Whatever their length."""
    request = pb.ValidateRequest(access_token="x" * size)
    batch = pb.BatchValidateRequest(requests=[request, request]).SerializeToString()
    assert list(Batch.FromString(batch).members) == [request.SerializeToString()] * 2

    answer = pb.ValidateResponse(claims=pb.Claims(subject="x" * size))
    expected = pb.BatchValidateResponse(responses=[answer, answer]).SerializeToString()
    assert Batch(members=[answer.SerializeToString()] * 2).SerializeToString() == expected


# Requests that come again


def test_a_request_is_remembered_once_its_token_is(replica: Replica, verdicts: Verdicts) -> None:
    """Its answer is the same, with the time of the present; nothing is known of other requests."""
    for known in (False, False, True):
        assert (verdicts.again(REQUEST) is not None) is known
        replica.ask(REQUEST)
    for as_of in (AS_OF, AS_OF + timedelta(seconds=1)):
        replica.as_of = as_of
        assert verdicts.again(REQUEST) == verdicts.response(Verdict(CLAIMS, None, as_of))
    assert verdicts.again(REQUEST + b"!") is None


@pytest.mark.parametrize(
    "change",
    [
        lambda replica: replica.revoke(RevocationKind.TOKEN, CLAIMS.token_id),
        lambda replica: replica.revoke(RevocationKind.SESSION, CLAIMS.session_id),
        lambda replica: replica.revoke(RevocationKind.USER, CLAIMS.subject),
        lambda replica: replica.revoke(RevocationKind.ALL, ""),
        lambda replica: replica.ring.replace([generate_key("HS256")]),
    ],
    ids=["token", "session", "user", "all", "key"],
)
def test_a_token_revoked_since_has_no_remembered_answer(
    replica: Replica, verdicts: Verdicts, change: Callable[[Replica], None]
) -> None:
    """Its verification gives the reason."""
    replica.remember(REQUEST)
    change(replica)
    assert verdicts.again(REQUEST) is None


def test_a_bound_token_is_remembered_for_its_certificate_alone(
    replica: Replica, verdicts: Verdicts
) -> None:
    """A refusal is never remembered, and a remembered answer is that of one certificate."""
    holder, thief = "A" * 43, "E" * 43
    token = TokenSigner(replica.ring).sign(CLAIMS._replace(certificate_thumbprint=holder))
    for _ in range(4):
        for certificate in ("", thief):
            answer = parsed(replica.ask_bound(certificate.encode() or b"-", token, certificate))
            assert answer.inactive_reason == pb.INACTIVE_REASON_WRONG_CERTIFICATE
            assert not answer.active
        answer = parsed(replica.ask_bound(holder.encode(), token, holder))
        assert answer.claims.certificate_thumbprint == holder
    assert verdicts.again(thief.encode()) is None
    assert verdicts.again(b"-") is None
    remembered = verdicts.again(holder.encode())
    assert remembered is not None
    assert parsed(remembered).claims.certificate_thumbprint == holder
    # Even if the request were mistaken for another: the memory asks the verifier once more.
    assert replica.validation.recall(token) is None
    assert replica.validation.recall(token, thief) is None


def test_a_remembered_answer_ends_when_the_login_is_too_old(
    replica: Replica, verdicts: Verdicts
) -> None:
    """The request with the bound is not answered from memory any longer; one without it is."""
    age = timedelta(seconds=30)  # the user logged in ten seconds ago
    replica.remember(b"without a bound")
    for _ in range(2):
        verdict = replica.validation.validate(replica.token, max_age=age)
        verdicts.response(verdict, replica.token, REQUEST, max_age=age)
    assert verdicts.again(REQUEST) is not None
    replica.as_of = AS_OF + timedelta(seconds=30)
    replica.clock.advance(timedelta(seconds=29))
    assert verdicts.again(REQUEST) is not None
    replica.clock.advance(timedelta(seconds=1))
    assert verdicts.again(REQUEST) is None
    assert verdicts.again(b"without a bound") is not None


def test_an_answer_names_what_the_login_does_not_satisfy(
    replica: Replica, verdicts: Verdicts
) -> None:
    """One demand, the other, or both; no other answer names any."""
    strong, recent = {"acr_values": ("2fa",)}, {"max_age": timedelta(0)}
    replica.clock.advance(timedelta(seconds=1))
    for demand, unmet in (
        (strong, ["acr_values"]),
        (recent, ["max_age"]),
        (strong | recent, ["max_age", "acr_values"]),
        (strong | {"audience": "elsewhere"}, []),
        ({}, []),
    ):
        asked: Any = demand
        answer = parsed(verdicts.response(replica.validation.validate(replica.token, **asked)))
        assert answer.unmet == unmet
        assert answer.active is (not demand)


@pytest.mark.parametrize("seconds", [900, -11], ids=["expired", "not yet valid"])
def test_a_token_out_of_its_time_has_no_remembered_answer(
    replica: Replica, verdicts: Verdicts, seconds: int
) -> None:
    """From the second of its expiry on, and after the clock was set back."""
    replica.remember(REQUEST)
    replica.as_of = AS_OF + timedelta(seconds=seconds)
    replica.clock.advance(timedelta(seconds=seconds))
    assert verdicts.again(REQUEST) is None


def test_a_remembered_answer_is_not_given_on_stale_revocations(
    replica: Replica, verdicts: Verdicts
) -> None:
    """It is refused as at the first sight of the token."""
    replica.remember(REQUEST)
    replica.clock.advance(timedelta(seconds=6))
    with pytest.raises(RevocationsStale):
        verdicts.again(REQUEST)


def test_a_long_request_is_not_remembered(replica: Replica, verdicts: Verdicts) -> None:
    """A request may be as long as a message: ten thousand of them would fill the memory."""
    longest = b"x" * LONGEST_REMEMBERED
    replica.remember(longest)
    for _ in range(3):
        replica.ask(longest + b"x")
    assert verdicts.again(longest + b"x") is None


def test_the_oldest_of_too_many_answers_is_forgotten(
    replica: Replica, verdicts: Verdicts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of answers is bounded."""
    monkeypatch.setattr("auth_service.rpc.verdicts.REMEMBERED", 3)
    requests = [bytes([number]) for number in range(7)]
    for request in requests:
        replica.remember(request)
    known = [verdicts.again(request) is not None for request in requests]
    assert known == [False] * 4 + [True] * 3


def test_nothing_is_remembered_where_no_token_is() -> None:
    """AUTH_VERIFIED_CACHE_SIZE=0 turns both memories off."""
    replica = Replica(cache_size=0)
    for _ in range(3):
        replica.ask(REQUEST)
    assert replica.verdicts.again(REQUEST) is None
