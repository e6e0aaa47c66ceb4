"""Exchange: never more scope, audience or life than the parent, and an end with what it came from.

EXCHANGES=1000000 runs the property as often by hand.
"""

import os
import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from auth_service.core.audiences import confined
from auth_service.core.exchange import Actor, GatewayExchange, TokenExchange
from auth_service.core.validation import Validation
from auth_service.errors import (
    AuthError,
    ConfigError,
    InactiveReason,
    InvalidArgument,
    InvalidScope,
    InvalidSubjectToken,
    InvalidTarget,
    InvalidToken,
    PermissionDenied,
    RevocationsStale,
)
from auth_service.models import ActorRule, Audience, Revocation, RevocationKind
from auth_service.tokens.access import AccessClaims, TokenSigner, TokenVerifier, new_token_id
from auth_service.tokens.delegation import MAX_DEPTH, Link
from auth_service.tokens.keys import KeyRing, generate_key
from auth_service.tokens.revocation import RevocationList, whole_second_after
from tests.clock import FakeClock

EXCHANGES = int(os.environ.get("EXCHANGES", "4000"))
START = datetime(2026, 1, 1, tzinfo=UTC)
EPOCH = int(START.timestamp())
OWN, ISSUER = "https://auth.test/api", "https://auth.test"
KEY = generate_key("HS256")
TTL = timedelta(minutes=15)


class World:
    """An exchange over audiences, keys and revocations that the test changes."""

    def __init__(self) -> None:
        self.clock = FakeClock(START)
        self.revocations = RevocationList(self.clock)
        self.as_of = START
        ring = KeyRing([KEY], KEY.kid)
        self.signer = TokenSigner(ring)
        self.verifier = TokenVerifier(ring, self.revocations, issuer=ISSUER, clock=self.clock)
        limit = timedelta(seconds=5)
        validation = Validation(self.verifier, lambda: self.as_of, limit, self.clock)
        self.audiences: dict[str, Audience] = {}
        self.exchange = TokenExchange(
            validation, self.signer, self.revocations, self.audiences.get, OWN, TTL, self.clock
        )
        self.read_at, self.ring = START, ring
        self.gateway = GatewayExchange(self.exchange, lambda: self.read_at, "gateway")
        self.no_gateway = GatewayExchange(self.exchange, lambda: self.read_at, "")

    def register(
        self, name: str, *scope: str, actors: dict[str, tuple[str, ...]] | None = None
    ) -> None:
        """Register an audience with who may exchange for it."""
        rules = tuple(ActorRule(actor, roles) for actor, roles in (actors or {}).items())
        self.audiences[name] = Audience(uuid4(), name, scope or ("*",), True, False, rules, START)

    def parent(self, **changes: Any) -> str:
        """Return a user's token for `orders`."""
        return self.signer.sign(PARENT._replace(token_id=new_token_id(), **changes))

    def revoke(self, kind: RevocationKind, target: str) -> None:
        """Revoke as the service does now."""
        now = self.clock()
        self.revocations.add(
            Revocation(kind, target, now + timedelta(hours=1), whole_second_after(now))
        )

    def reason(self, token: str) -> InactiveReason | None:
        """Return why a token is not active."""
        try:
            self.verifier.verify(token)
        except InvalidToken as error:
            return error.inactive_reason
        return None


PARENT = AccessClaims(
    issuer=ISSUER,
    subject="alice",
    audience=("orders", OWN),
    expires_at=EPOCH + 600,
    issued_at=EPOCH,
    token_id="parent",
    session_id="sid",
    client_id="web",
    scope=("read", "write"),
    roles=("clerk",),
    auth_time=EPOCH - 60,
    amr=("pwd", "otp"),
    acr="2fa",
)
ORDERS = Actor("orders", EPOCH, ())


@pytest.fixture
def world() -> World:
    """A world in which `orders` may exchange for `billing`."""
    made = World()
    made.register("billing", "read", actors={"orders": ()})
    return made


def test_an_exchanged_token_is_for_one_audience_and_names_its_actor(world: World) -> None:
    """It has the subject, the session and the login of the parent."""
    token, claims = world.exchange.exchange(ORDERS, world.parent(), "billing")
    assert world.verifier.verify(token, audience="billing") == claims
    assert (claims.subject, claims.session_id, claims.roles) == ("alice", "sid", ("clerk",))
    assert (claims.audience, claims.scope) == (("billing",), ("read",))
    assert (claims.auth_time, claims.amr) == (PARENT.auth_time, PARENT.amr)
    assert claims.acr == "2fa"
    assert (claims.client_id, claims.actors) == ("orders", ("orders",))
    assert claims.expires_at == PARENT.expires_at
    with pytest.raises(InvalidToken):
        world.verifier.verify(token, audience="orders")


def test_a_life_may_be_shorter_and_never_longer(world: World) -> None:
    """Than the parent's, and than that of a new token."""
    for asked, expected in ((60, 60), (10_000, 600), (None, 600)):
        lifetime = None if asked is None else timedelta(seconds=asked)
        _, claims = world.exchange.exchange(ORDERS, world.parent(), "billing", lifetime=lifetime)
        assert claims.expires_at == EPOCH + expected
    parent = world.parent(expires_at=EPOCH + 5000)
    _, claims = world.exchange.exchange(ORDERS, parent, "billing")
    assert claims.expires_at == EPOCH + TTL.total_seconds()


def test_scopes_are_the_parents_that_belong_to_the_audience(world: World) -> None:
    """Fewer may be asked for, no others."""
    world.register("ledger", "read", "audit", actors={"orders": ()})
    _, claims = world.exchange.exchange(ORDERS, world.parent(), "ledger")
    assert claims.scope == ("read",)
    _, none = world.exchange.exchange(ORDERS, world.parent(scope=("write",)), "ledger")
    assert none.scope == ()
    for scope in ("write", "audit", "nonsense"):
        with pytest.raises(InvalidScope):
            world.exchange.exchange(ORDERS, world.parent(), "ledger", [scope])


def test_a_repeated_scope_takes_no_memory(world: World) -> None:
    """What is kept is found by the scopes that are asked for, so their number is bounded."""
    parent = world.parent()
    token, claims = world.exchange.exchange(ORDERS, parent, "billing", ["read"])
    assert claims.scope == ("read",)
    twice = ["read"] * 64
    assert world.exchange.exchange(ORDERS, parent, "billing", twice) == (token, claims)
    with pytest.raises(InvalidArgument, match="scope: must have at most 64 items"):
        world.exchange.exchange(ORDERS, parent, "billing", [*twice, "read"])


@pytest.mark.parametrize("audience", ["nowhere", "orders", OWN, "shipping"])
def test_an_audience_without_a_rule_is_no_target(world: World, audience: str) -> None:
    """Not registered, without this actor, or this service itself."""
    world.register("shipping", actors={"billing": ()})
    world.register(OWN, actors={"orders": ()})
    with pytest.raises(InvalidTarget):
        world.exchange.exchange(ORDERS, world.parent(), audience)


def test_a_rule_may_be_for_subjects_with_a_role(world: World) -> None:
    """One of them is enough."""
    world.register("ledger", actors={"orders": ("auditor", "clerk")})
    assert world.exchange.exchange(ORDERS, world.parent(), "ledger")
    with pytest.raises(InvalidTarget):
        world.exchange.exchange(ORDERS, world.parent(roles=("staff",)), "ledger")


def test_a_token_that_is_for_somebody_else_is_not_exchanged(world: World) -> None:
    """A token that is only for this service, or for a service that is not the actor."""
    for audience in ((OWN,), ("shipping",), ("shipping", OWN)):
        with pytest.raises(InvalidSubjectToken):
            world.exchange.exchange(ORDERS, world.parent(audience=audience), "billing")
    actor = ORDERS._replace(audience=("shipping", OWN))
    assert world.exchange.exchange(actor, world.parent(audience=("shipping", OWN)), "billing")


@pytest.mark.parametrize(
    "changes",
    [{"session_id": "sid"}, {"chain": (Link("a", 1, "b", 1),)}, {"client_id": "other"}],
)
def test_only_a_service_account_acts(changes: dict[str, Any]) -> None:
    """Not a user, whose client id anybody may choose, and not with an exchanged token."""
    own = PARENT._replace(subject="orders", client_id="orders", session_id="")
    assert Actor.of(own).client_id == "orders"
    with pytest.raises(PermissionDenied):
        Actor.of(own._replace(**changes))


def test_five_exchanges_are_the_limit(world: World) -> None:
    """And each is named, newest first."""
    names = [f"s{number}" for number in range(MAX_DEPTH + 1)]
    for name, next_ in zip(["orders", *names], names, strict=False):
        world.register(next_, actors={name: ()})
    token, holder = world.parent(), "orders"
    for name in names[:MAX_DEPTH]:
        token, claims = world.exchange.exchange(Actor(holder, EPOCH, ()), token, name)
        holder = name
    assert claims.actors == ("s3", "s2", "s1", "s0", "orders")
    with pytest.raises(InvalidSubjectToken, match="5 times"):
        world.exchange.exchange(Actor(holder, EPOCH, ()), token, names[-1])


def test_a_token_three_deep_has_a_kibibyte_at_most(world: World) -> None:
    """With names and ids as long as they are in use."""
    names = ("order-processing", "billing-gateway", "general-ledger")
    for actor, name in zip(("orders", *names), names, strict=False):
        world.register(name, actors={actor: ()})
    token = world.parent(
        subject=str(uuid4()), session_id=str(uuid4()), scope=("orders:read", "orders:write")
    )
    actor = "orders"
    for name in names:
        token, claims = world.exchange.exchange(Actor(actor, EPOCH, ()), token, name)
        actor = name
    assert len(claims.chain) == 3
    assert len(token) <= 1024, len(token)


@pytest.mark.parametrize(
    ("kind", "target", "reason"),
    [
        (RevocationKind.TOKEN, "parent", InactiveReason.TOKEN_REVOKED),
        (RevocationKind.SESSION, "sid", InactiveReason.SESSION_REVOKED),
        (RevocationKind.USER, "alice", InactiveReason.USER_REVOKED),
        (RevocationKind.USER, "orders", InactiveReason.USER_REVOKED),
        (RevocationKind.ALL, "", InactiveReason.USER_REVOKED),
    ],
)
def test_a_token_ends_with_what_it_came_from(
    world: World, kind: RevocationKind, target: str, reason: InactiveReason
) -> None:
    """The parent's token, its session, its user, and the actor; a grandchild ends as well."""
    world.register("ledger", actors={"billing": ()})
    parent = world.signer.sign(PARENT)
    child, _ = world.exchange.exchange(ORDERS, parent, "billing")
    grandchild, _ = world.exchange.exchange(Actor("billing", EPOCH, ()), child, "ledger")
    assert (world.reason(child), world.reason(grandchild)) == (None, None)
    world.revoke(kind, target)
    assert (world.reason(child), world.reason(grandchild)) == (reason, reason)
    with pytest.raises(InvalidSubjectToken):
        world.exchange.exchange(Actor("billing", EPOCH, ()), child, "ledger")


def test_a_parent_that_is_not_active_is_not_exchanged(world: World) -> None:
    """Expired, forged or revoked; and on old knowledge there is no answer."""
    parent = world.signer.sign(PARENT)
    world.revoke(RevocationKind.TOKEN, "parent")
    for bad in (parent, parent[:-2], "garbage", world.parent(expires_at=EPOCH)):
        with pytest.raises(InvalidSubjectToken):
            world.exchange.exchange(ORDERS, bad, "billing")
    world.clock.advance(timedelta(seconds=6))
    with pytest.raises(RevocationsStale):
        world.exchange.exchange(ORDERS, world.parent(), "billing")


def test_an_exchange_that_is_repeated_gives_the_same_token(world: World) -> None:
    """As long as a new one would differ by its id and date alone; it expires with its parent."""
    parent = world.parent()
    token, _ = world.exchange.exchange(ORDERS, parent, "billing")
    world.clock.advance(timedelta(seconds=3))
    world.as_of = world.clock()
    again, claims = world.exchange.exchange(ORDERS, parent, "billing")
    assert (again, claims.expires_at) == (token, PARENT.expires_at)
    world.register("ledger", "read", actors={"orders": ()})
    others = [
        world.exchange.exchange(ORDERS, parent, "ledger"),
        world.exchange.exchange(ORDERS, world.parent(), "billing"),
        world.exchange.exchange(ORDERS, parent, "billing", lifetime=timedelta(hours=1)),
        world.exchange.exchange(ORDERS, parent, "billing", ["read"]),
    ]
    assert len({token, *(each for each, _ in others)}) == 1 + len(others)


def test_a_token_that_was_given_and_revoked_is_not_given_again(world: World) -> None:
    """Nor one that ended with its actor, whose next token is good."""
    parent = world.parent()
    token, claims = world.exchange.exchange(ORDERS, parent, "billing")
    world.revoke(RevocationKind.TOKEN, claims.token_id)
    second, _ = world.exchange.exchange(ORDERS, parent, "billing")
    assert (world.reason(token), world.reason(second)) == (InactiveReason.TOKEN_REVOKED, None)
    world.revoke(RevocationKind.USER, "orders")
    world.clock.advance(timedelta(seconds=2))
    later = ORDERS._replace(issued_at=EPOCH + 2)
    third, _ = world.exchange.exchange(later, parent, "billing")
    assert (world.reason(second), world.reason(third)) == (InactiveReason.USER_REVOKED, None)


def test_a_token_that_would_expire_before_its_parent_is_made_anew(world: World) -> None:
    """So that each has the whole life of a new token."""
    parent = world.parent(expires_at=EPOCH + 5000)
    for second in range(3):
        _, claims = world.exchange.exchange(ORDERS, parent, "billing")
        assert claims.expires_at == EPOCH + second + TTL.total_seconds()
        world.clock.advance(timedelta(seconds=1))
        world.as_of = world.clock()


class TestGateway:
    def test_a_token_is_kept_while_it_is_valid(self, world: World) -> None:
        """The next request with the same parent gets the same."""
        world.register("billing", actors={"gateway": ()})
        token = world.gateway.token(PARENT, "billing")
        assert world.gateway.token(PARENT, "billing") == token
        other = PARENT._replace(token_id="other")
        assert world.gateway.token(other, "billing") != token
        imposter = PARENT._replace(subject="mallory")
        assert world.verifier.verify(world.gateway.token(imposter, "billing")).subject == "mallory"

    def test_a_rule_that_is_withdrawn_ends_it(self, world: World) -> None:
        """As does a parent that was exchanged too often, and no account for gateways."""
        world.register("billing", actors={"gateway": ()})
        assert world.gateway.token(PARENT, "billing")
        world.register("billing", actors={"orders": ()})
        with pytest.raises(InvalidTarget):
            world.gateway.token(PARENT, "billing")
        with pytest.raises(ConfigError):
            world.no_gateway.token(PARENT, "billing")

    def test_a_parent_with_the_same_id_and_less_gets_less(self, world: World) -> None:
        """As a refresh that is repeated with fewer scopes gives one; roles change as well."""
        world.register("billing", actors={"gateway": ()})
        assert world.gateway.token(PARENT, "billing")
        for less in ({"scope": ("read",)}, {"roles": ()}, {"expires_at": EPOCH + 60}):
            narrow = PARENT._replace(**less)
            claims = world.verifier.verify(world.gateway.token(narrow, "billing"))
            for name, value in less.items():
                assert getattr(claims, name) == value

    def test_the_end_of_the_actor_cannot_be_escaped(self, world: World) -> None:
        """A process that has not read the rules since makes tokens that end with it, however late.

        Once it has read them, and finds the account there, what it makes is good.
        """
        world.register("billing", actors={"gateway": ()})
        token = world.gateway.token(PARENT, "billing")
        world.revoke(RevocationKind.USER, "gateway")
        world.clock.advance(timedelta(seconds=3))
        late = world.gateway.token(PARENT, "billing")
        for each in (token, late):
            assert world.reason(each) is InactiveReason.USER_REVOKED
        world.read_at = world.clock()
        good = world.gateway.token(PARENT, "billing")
        assert world.reason(good) is None
        assert world.gateway.token(PARENT, "billing") == good

    def test_a_key_that_is_no_longer_trusted_ends_what_it_signed(self, world: World) -> None:
        """The next request gets a token of the next key."""
        world.register("billing", actors={"gateway": ()})
        token = world.gateway.token(PARENT, "billing")
        other = generate_key("HS256")
        world.ring.replace([other], other.kid)
        again = world.gateway.token(PARENT, "billing")
        assert (world.reason(token), world.reason(again)) == (InactiveReason.UNKNOWN_KEY, None)


def test_no_exchange_widens_anything() -> None:
    """Random parents under random rules: no more scope, audience or life, whatever is asked."""
    random_ = random.Random(20261126)
    names = [f"a{number}" for number in range(6)]
    scopes = [f"s{number}" for number in range(6)]
    roles = ["clerk", "staff", "auditor"]
    world, exchanged = World(), 0

    def some(values: list[str], most: int | None = None) -> tuple[str, ...]:
        return tuple(random_.sample(values, random_.randint(0, most or len(values))))

    for number in range(EXCHANGES):
        if number % 50 == 0:
            for name in names:
                world.register(
                    name,
                    *(("*",) if random_.random() < 0.2 else some(scopes)),
                    actors={actor: some(roles, 2) for actor in some(names)},
                )
        token = world.parent(
            audience=(random_.choice(names), *some(names, 2)),
            scope=some(scopes),
            roles=some(roles),
            expires_at=EPOCH + random_.randint(1, 2000),
        )
        for _ in range(random_.randint(1, 4)):
            parent = world.verifier.verify(token)
            actor = Actor(random_.choice(names), EPOCH, some(names))
            audience, wanted = random_.choice([*names, OWN, "nowhere"]), some(scopes, 3)
            lifetime = random_.choice([None, timedelta(seconds=random_.randint(1, 3000))])
            try:
                token, claims = world.exchange.exchange(actor, token, audience, wanted, lifetime)
            except AuthError:
                continue
            exchanged += 1
            target = world.audiences[audience]
            rule = next(rule for rule in target.actors if rule.client_id == actor.client_id)
            assert not rule.subject_roles or set(rule.subject_roles) & set(parent.roles)
            assert claims == world.verifier.verify(token, audience=audience)
            assert claims.audience == (audience,) != (OWN,)
            assert {actor.client_id, *actor.audience} & set(parent.audience)
            assert set(claims.scope) <= set(confined(parent.scope, target.scope))
            assert not wanted or set(claims.scope) == set(wanted)
            assert EPOCH < claims.expires_at <= parent.expires_at
            assert lifetime is None or claims.expires_at <= EPOCH + lifetime.total_seconds()
            assert claims.roles == parent.roles
            assert (claims.subject, claims.session_id) == (parent.subject, parent.session_id)
            assert claims.actors == (actor.client_id, *parent.actors)
    assert exchanged > EXCHANGES / 10
