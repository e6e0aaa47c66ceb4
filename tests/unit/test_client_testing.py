"""The issuer that services use in their own tests."""

from datetime import timedelta
from typing import Any

import pytest

from auth_service.client.testing import Issuer
from auth_service.client.testing import auth_issuer as _auth_issuer
from auth_service.client.verifier import LocalVerifier
from auth_service.errors import InactiveReason, InvalidToken

auth_issuer = _auth_issuer


def refusal(issuer: Issuer, token: str, **asked: Any) -> InactiveReason:
    with pytest.raises(InvalidToken) as caught:
        issuer.verifier.verify(token, **asked)
    return caught.value.inactive_reason


def test_its_tokens_are_good_for_its_verifier_alone(auth_issuer: Issuer) -> None:
    """They have the requested claims, and no other issuer knows their key."""
    token = auth_issuer.token("ada", scope=["read"], roles=["clerk"])
    claims = auth_issuer.verifier.verify(token, audience="test", required_scope=["read"])
    assert (claims.subject, claims.roles) == ("ada", ("clerk",))
    assert refusal(Issuer(), token) is InactiveReason.UNKNOWN_KEY


def test_its_shared_key_makes_a_local_verifier(auth_issuer: Issuer) -> None:
    """A service under test may build its own."""
    verifier = LocalVerifier(
        issuer=auth_issuer.issuer, shared_key=auth_issuer.shared_key, clock=auth_issuer.clock
    )
    assert verifier.verify(auth_issuer.token("ada")).subject == "ada"
    with pytest.raises(ValueError, match="EdDSA"):
        _ = Issuer(algorithm="EdDSA").shared_key


def test_the_clock_is_the_tests(auth_issuer: Issuer) -> None:
    """A token expires when the test moves the clock."""
    token = auth_issuer.token(lifetime=timedelta(minutes=1))
    auth_issuer.clock.advance(timedelta(minutes=1))
    assert refusal(auth_issuer, token) is InactiveReason.EXPIRED


def test_any_claim_may_be_set_or_left_out(auth_issuer: Issuer) -> None:
    """So a test can present tokens that its service must refuse."""
    elsewhere = auth_issuer.token(aud="elsewhere")
    assert refusal(auth_issuer, elsewhere, audience="test") is InactiveReason.WRONG_AUDIENCE
    assert refusal(auth_issuer, auth_issuer.token(exp=None)) is InactiveReason.MALFORMED
    assert refusal(auth_issuer, auth_issuer.token(iss="x")) is InactiveReason.WRONG_ISSUER


def test_a_call_revokes(auth_issuer: Issuer) -> None:
    """A token, a session, or all sessions of a user."""
    tokens = [auth_issuer.token("ada", sid=str(number)) for number in range(3)]
    auth_issuer.revoke(tokens[0])
    auth_issuer.revoke_session(tokens[1])
    assert refusal(auth_issuer, tokens[0]) is InactiveReason.TOKEN_REVOKED
    assert refusal(auth_issuer, tokens[1]) is InactiveReason.SESSION_REVOKED
    assert auth_issuer.verifier.verify(tokens[2]).session_id == "2"
    auth_issuer.revoke_user("ada")
    assert refusal(auth_issuer, tokens[2]) is InactiveReason.USER_REVOKED
