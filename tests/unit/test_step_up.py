"""The challenge of RFC 9470: what is written is read back, and nothing else is taken for it."""

from datetime import timedelta

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth_service.authz.admission import Refused, Rule, admit
from auth_service.authz.status import status_of
from auth_service.authz.step_up import challenge
from auth_service.client import AccessClaims, step_up_demand
from auth_service.client.step_up import Demands
from auth_service.errors import InactiveReason, InsufficientUserAuthentication, InvalidToken
from auth_service.tokens.assurance import SUPPORTED

FIVE_MINUTES = timedelta(minutes=5)
VALUES = st.text(st.characters(codec="ascii", categories=("L", "N", "S")), min_size=1).filter(
    lambda text: not set(text) & set('"\\')
)
DEMANDS = st.builds(
    InsufficientUserAuthentication,
    st.none() | st.integers(0, 999_999_999).map(lambda seconds: timedelta(seconds=seconds)),
    st.lists(VALUES, max_size=4).map(tuple),
)


def demanded(error: InsufficientUserAuthentication | None) -> object:
    """Return what an error demands."""
    return error and (error.max_age, error.acr_values)


def received(*trailers: tuple[str, str | bytes]) -> grpc.aio.AioRpcError:
    """Return the error that a client gets with these trailers."""
    code = grpc.StatusCode.UNAUTHENTICATED
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers))


@given(DEMANDS)
def test_a_client_reads_what_the_service_demands(error: InsufficientUserAuthentication) -> None:
    """From www-authenticate, and from the status of gRPC."""
    value = challenge(error)
    assert demanded(step_up_demand(value)) == demanded(error)
    other = (
        f'DPoP algs="ES256", error="{InactiveReason.EXPIRED}", {value}, Basic realm="a, Bearer b"'
    )
    assert demanded(step_up_demand(other)) == demanded(error)


INSUFFICIENT = 'error="insufficient_user_authentication"'


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # The examples of RFC 9470 section 3.
        (
            f'Bearer {INSUFFICIENT},\n  error_description="A different one",\n  acr_values="myACR"',
            (None, ("myACR",)),
        ),
        (
            f'Bearer {INSUFFICIENT},  error_description="More recent",  max_age="5"',
            (timedelta(seconds=5), ()),
        ),
        (
            "bearer MAX_AGE=5 , Error=insufficient_user_authentication,acr_values = 2fa",
            (timedelta(seconds=5), ("2fa",)),
        ),
        (
            rf'Bearer error_description="\"quoted\", acr_values=\"x\"", max_age=-1, {INSUFFICIENT}',
            (None, ()),
        ),
    ],
)
def test_a_challenge_of_another_maker_is_read(value: str, expected: object) -> None:
    """In any case and order, with or without quotes; a `max_age` that is no number is left out."""
    assert demanded(step_up_demand(value)) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        'Bearer error="invalid_token"',
        'Bearer error="insufficient_scope", scope="insufficient_user_authentication"',
        'Basic error="insufficient_user_authentication"',
        'error="insufficient_user_authentication"',
        'Bearer realm="Bearer error=insufficient_user_authentication"',
        'Bearer error="insufficient_user_authentication',
        "\0\n\"'=,=",
    ],
)
def test_another_refusal_demands_no_login(value: str) -> None:
    """A client would send its user to log in for nothing."""
    assert step_up_demand(value) is None
    assert Demands().replace("token", (("www-authenticate", value), ("x-bin", b"\xff")))


@given(st.text())
def test_any_text_is_read(value: str) -> None:
    """A header of a stranger raises nothing."""
    step_up_demand(value)
    step_up_demand(f'Bearer error="insufficient_user_authentication", {value}')


class Demanding:
    """A verifier that notes what it is asked for, and refuses if that is a login."""

    def __init__(self) -> None:
        self.asked: dict[str, object] = {}

    def verify(self, token: str, **asked: object) -> AccessClaims:
        """Refuse, or fail the test of a rule that demands no login."""
        self.asked = asked
        if "max_age" not in asked and "acr_values" not in asked:
            raise InvalidToken(InactiveReason.EXPIRED)
        raise InsufficientUserAuthentication(FIVE_MINUTES, ("2fa", "phr"), ("acr_values",))


def test_a_refusal_has_the_challenge_in_each_of_its_forms() -> None:
    """HTTP has it in www-authenticate, and gRPC in ErrorInfo too."""
    rule = Rule(max_age=FIVE_MINUTES, acr_values=("2fa", "phr"))
    with pytest.raises(Refused) as raised:
        admit(Demanding(), rule, ["Bearer x"])
    refused = raised.value
    header = (
        'Bearer error="insufficient_user_authentication", '
        'error_description="a login by other or more factors is required", '
        'acr_values="2fa phr", max_age="300"'
    )
    assert (refused.status, refused.headers()["www-authenticate"]) == (401, header)
    assert refused.body() == {
        "error": "insufficient_user_authentication",
        "error_description": "a login by other or more factors is required",
    }
    status = status_of(refused)
    assert status.code is grpc.StatusCode.UNAUTHENTICATED
    assert dict(status.trailers)["www-authenticate"] == header
    assert not Demands().replace("token", status.trailers)
    error = received(*status.trailers)
    assert demanded(step_up_demand(error)) == (FIVE_MINUTES, ("2fa", "phr"))
    assert step_up_demand(received()) is None


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        (Rule(), set()),
        (Rule(max_age=timedelta(0)), {"max_age"}),
        (Rule(acr_values=("2fa",)), {"acr_values"}),
    ],
)
def test_a_verifier_is_asked_only_for_what_a_rule_demands(rule: Rule, names: set[str]) -> None:
    """A verifier of a service's own, which knows nothing of step-up, goes on working."""
    verifier = Demanding()
    with pytest.raises(Refused):
        admit(verifier, rule, ["Bearer x"])
    assert verifier.asked.keys() - {"audience", "required_scope", "required_roles"} == names


@pytest.mark.parametrize(
    "max_age",
    [timedelta(seconds=-1), timedelta(seconds=1.5), 300, 0, "300", True],
    ids=repr,
)
def test_an_age_is_whole_seconds(max_age: timedelta) -> None:
    """The challenge has no fractions (RFC 9470 section 3), and a number would have no unit."""
    with pytest.raises(ValueError, match="max_age must be a timedelta of whole seconds"):
        Rule(max_age=max_age)


@pytest.mark.parametrize("value", ["", "a b", 'a"', "a\\b", "a\r\nx: y", "é", "a" * 257])
def test_a_value_of_acr_is_visible_ascii(value: str) -> None:
    """A header quotes it, in a list."""
    with pytest.raises(ValueError, match="not a value of acr"):
        Rule(acr_values=(value,))


def test_the_values_of_this_service_may_be_demanded() -> None:
    """Together, and in order of preference."""
    assert Rule(acr_values=SUPPORTED).acr_values == ("1fa", "2fa", "phr")
