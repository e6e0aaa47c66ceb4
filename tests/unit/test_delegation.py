"""The chain of an exchanged token: its strict form, and what ends the token."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth_service.errors import InactiveReason, InvalidToken
from auth_service.models import Revocation, RevocationKind
from auth_service.tokens import jws
from auth_service.tokens.access import AccessClaims, TokenSigner, TokenVerifier
from auth_service.tokens.delegation import MAX_DEPTH, Chain, Link, as_claims, read_chain
from auth_service.tokens.keys import KeyRing, generate_key
from auth_service.tokens.revocation import RevocationList, marks
from tests.clock import FakeClock

START = datetime(2026, 1, 1, tzinfo=UTC)
EPOCH = int(START.timestamp())
KEY = generate_key("HS256")

CHAIN: Chain = (
    Link("billing", EPOCH + 30, "jti-2", EPOCH + 20),
    Link("orders", EPOCH + 10, "jti-1", EPOCH + 15),
    Link("gateway", EPOCH + 5, "jti-0", EPOCH),
)
"""Of a token of the login (jti-0, issued at EPOCH) that was exchanged three times."""
CLAIMS = AccessClaims(
    issuer="https://auth.test",
    subject="alice",
    audience=("ledger",),
    expires_at=EPOCH + 900,
    issued_at=EPOCH + 40,
    token_id="jti-3",
    session_id="sid",
    client_id="billing",
    scope=("read",),
    roles=("user",),
    auth_time=EPOCH,
    amr=("pwd",),
    chain=CHAIN,
)
GOOD = as_claims(CHAIN)


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands a minute after START."""
    return FakeClock(START + timedelta(seconds=60))


@pytest.fixture
def revocations(clock: FakeClock) -> RevocationList:
    """An empty list."""
    return RevocationList(clock)


@pytest.fixture
def verifier(clock: FakeClock, revocations: RevocationList) -> TokenVerifier:
    """A verifier of KEY."""
    return TokenVerifier(KeyRing([KEY]), revocations, issuer=CLAIMS.issuer, clock=clock)


def signed(claims: dict[str, Any]) -> str:
    """Sign any claims, as a holder of the key can."""
    return jws.sign(claims, KEY, "at+jwt")


def revocation(kind: RevocationKind, target: str, before: int = 0) -> Revocation:
    """Return a revocation; `before` counts seconds after START."""
    return Revocation(kind, target, START + timedelta(hours=1), START + timedelta(seconds=before))


# The form


NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)
TIMES = st.integers(0, jws.LATEST_TIME)
CHAINS = st.lists(st.builds(Link, NAMES, TIMES, NAMES, TIMES), min_size=1, max_size=MAX_DEPTH)


@given(CHAINS)
def test_a_chain_is_read_as_it_was_written(links: list[Link]) -> None:
    """Any chain of one to five exchanges, through JSON."""
    chain = tuple(links)
    assert read_chain(json.loads(json.dumps(as_claims(chain)))) == chain


def test_the_claim_act_is_that_of_rfc_8693() -> None:
    """The newest actor is outermost (section 4.1); nothing but its identity is in there."""
    inner = {"sub": "orders", "act": {"sub": "gateway"}}
    assert GOOD["act"] == {"sub": "billing", "act": inner}
    assert GOOD["parents"][0] == ["jti-2", EPOCH + 20, EPOCH + 30]
    assert CLAIMS.actors == ("billing", "orders", "gateway")


def test_a_token_with_a_chain_verifies(verifier: TokenVerifier) -> None:
    """At the first sight, and from memory."""
    token = TokenSigner(KeyRing([KEY], KEY.kid)).sign(CLAIMS)
    assert [verifier.verify(token) for _ in range(3)] == [CLAIMS] * 3
    assert verifier.recall(token)


def test_the_token_of_a_login_has_neither_claim() -> None:
    """So it stays as short as it was."""
    claims = CLAIMS._replace(chain=()).as_jwt()
    assert not claims.keys() & {"act", "parents"}
    assert CLAIMS._replace(chain=()).actors == ()


ENTRY = GOOD["parents"][0]
MALFORMED: list[dict[str, Any]] = [
    {"act": None},
    {"act": "billing"},
    {"act": {}},
    {"act": {"sub": ""}},
    {"act": {"sub": 7}},
    {"act": {"sub": "billing"}},  # names one of three
    {"act": {"sub": "x", "act": GOOD["act"]}},  # names four
    {"act": GOOD["act"] | {"iss": "https://elsewhere.test"}},
    {"act": {"sub": "billing", "act": ["orders", "gateway"]}},
    {"act": {"sub": "a\nb", "act": GOOD["act"]["act"]}},
    {"act": {"sub": "x" * 257, "act": GOOD["act"]["act"]}},
    {"parents": None},
    {"parents": []},
    {"parents": "jti-2"},
    {"parents": GOOD["parents"][:2]},
    {"parents": [*GOOD["parents"], ENTRY]},
    {"parents": ["jti-2", *GOOD["parents"][1:]]},
    *(
        {"parents": [entry, *GOOD["parents"][1:]]}
        for entry in (
            [],
            ENTRY[:2],
            [*ENTRY, 0],
            ["", *ENTRY[1:]],
            ["a\nb", *ENTRY[1:]],
            ["x" * 257, *ENTRY[1:]],
            [7, *ENTRY[1:]],
            *([ENTRY[0], value, ENTRY[2]] for value in (-1, 1.0, True, "1", None, 1 << 32)),
            *([ENTRY[0], ENTRY[1], value] for value in (-1, 1.0, True, "1", None, 1 << 32)),
        )
    ),
]


@pytest.mark.parametrize("changes", MALFORMED)
def test_any_other_form_is_malformed(verifier: TokenVerifier, changes: dict[str, Any]) -> None:
    """Each of them is refused, although the signature is valid."""
    assert verifier.verify(signed(CLAIMS.as_jwt())) == CLAIMS
    with pytest.raises(InvalidToken) as caught:
        verifier.verify(signed(CLAIMS.as_jwt() | changes))
    assert caught.value.inactive_reason is InactiveReason.MALFORMED


@pytest.mark.parametrize("name", ["act", "parents"])
def test_one_claim_without_the_other_is_malformed(verifier: TokenVerifier, name: str) -> None:
    """A token without its parents' ids would outlive their revocation."""
    claims = {key: value for key, value in CLAIMS.as_jwt().items() if key != name}
    with pytest.raises(InvalidToken) as caught:
        verifier.verify(signed(claims))
    assert caught.value.inactive_reason is InactiveReason.MALFORMED


def test_a_chain_of_six_is_malformed(verifier: TokenVerifier) -> None:
    """Five is the limit, also for a holder of the key."""
    assert verifier.verify(signed(CLAIMS._replace(chain=CHAIN[:1] * MAX_DEPTH).as_jwt()))
    with pytest.raises(InvalidToken):
        verifier.verify(signed(CLAIMS._replace(chain=CHAIN[:1] * (MAX_DEPTH + 1)).as_jwt()))


# What ends the token


ENDING = [
    *((revocation(RevocationKind.TOKEN, f"jti-{n}"), "TOKEN_REVOKED") for n in range(4)),
    (revocation(RevocationKind.SESSION, "sid"), "SESSION_REVOKED"),
    (revocation(RevocationKind.USER, "alice", 1), "USER_REVOKED"),
    (revocation(RevocationKind.USER, "billing", 31), "USER_REVOKED"),
    (revocation(RevocationKind.USER, "orders", 11), "USER_REVOKED"),
    (revocation(RevocationKind.USER, "gateway", 6), "USER_REVOKED"),
    (revocation(RevocationKind.ALL, "", 1), "USER_REVOKED"),
]
SPARING = [
    revocation(RevocationKind.TOKEN, "billing"),
    revocation(RevocationKind.SESSION, "jti-1"),
    revocation(RevocationKind.USER, "alice", 0),
    revocation(RevocationKind.USER, "billing", 30),
    revocation(RevocationKind.USER, "orders", 10),
    revocation(RevocationKind.USER, "gateway", 5),
    revocation(RevocationKind.USER, "ledger", 500),
    revocation(RevocationKind.ALL, "", 0),
]


@pytest.mark.parametrize(("item", "reason"), ENDING)
@pytest.mark.parametrize("among_others", [False, True])
def test_the_end_of_an_ancestor_ends_the_token(
    revocations: RevocationList,
    verifier: TokenVerifier,
    item: Revocation,
    reason: str,
    among_others: bool,
) -> None:
    """Any parent, the session, the user, any actor; also if the token was found valid before."""
    if among_others:
        revocations.add(revocation(RevocationKind.TOKEN, "another"))
    token = signed(CLAIMS.as_jwt())
    for _ in range(2):
        verifier.verify(token)
    assert verifier.recall(token)
    revocations.add(item)
    assert not verifier.recall(token)
    with pytest.raises(InvalidToken) as caught:
        verifier.verify(token)
    assert caught.value.inactive_reason is InactiveReason[reason]
    assert revocations.check(CLAIMS) is InactiveReason[reason]
    assert revocations.check(CLAIMS, marks(CLAIMS)) is InactiveReason[reason]


@pytest.mark.parametrize("item", SPARING)
def test_what_names_no_ancestor_spares_the_token(
    revocations: RevocationList, item: Revocation
) -> None:
    """A login or an actor's token of the very second of the bound stays valid, as everywhere."""
    revocations.add(item)
    assert revocations.check(CLAIMS) is None
    assert revocations.check(CLAIMS, marks(CLAIMS)) is None


def test_an_exchange_after_a_revocation_is_covered_by_its_parent(
    revocations: RevocationList,
) -> None:
    """A replica that has not heard of the revocation yet may exchange after it.

    The new token is dated later than "issued before", but the login is not.
    """
    revocations.add(revocation(RevocationKind.USER, "alice", 35))
    assert CLAIMS.issued_at > EPOCH + 35
    assert revocations.check(CLAIMS) is InactiveReason.USER_REVOKED
    assert revocations.check(CLAIMS._replace(chain=())) is None


def test_an_actor_that_is_enabled_again_exchanges_again(revocations: RevocationList) -> None:
    """Also a token that the user held before, as long as the actor's own token is a new one."""
    revocations.add(revocation(RevocationKind.USER, "billing", 31))
    enabled = CLAIMS._replace(chain=(CHAIN[0]._replace(actor_issued_at=EPOCH + 31), *CHAIN[1:]))
    assert revocations.check(CLAIMS) is InactiveReason.USER_REVOKED
    assert revocations.check(enabled) is None
