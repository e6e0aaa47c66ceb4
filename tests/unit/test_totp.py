"""Codes of authenticator apps and recovery codes, without a database."""

from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pytest

from auth_service.core import totp
from auth_service.core.recovery_codes import code_hash, new_codes
from auth_service.errors import InvalidArgument

SECRET = b"12345678901234567890"  # RFC 6238, appendix B


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@pytest.mark.parametrize(
    ("seconds", "code"),
    [
        (59, "287082"),
        (1111111109, "081804"),
        (1111111111, "050471"),
        (1234567890, "005924"),
        (2000000000, "279037"),
        (20000000000, "353130"),
    ],
)
def test_the_codes_are_those_of_the_rfc(seconds: int, code: str) -> None:
    """The last six digits of its test values."""
    assert totp.code_of(SECRET, at(seconds)) == code
    assert totp.matching_step(SECRET, code, at(seconds)) == seconds // 30


def test_a_code_of_a_neighbouring_step_is_told_apart() -> None:
    """The step that has it is returned, so that it can be used up."""
    now = at(1234567890)
    step = 1234567890 // 30
    for drift in (-1, 0, 1):
        code = totp.code_of(SECRET, at(1234567890 + 30 * drift))
        assert totp.matching_step(SECRET, code, now) == step + drift
    for drift in (-2, 2):
        code = totp.code_of(SECRET, at(1234567890 + 30 * drift))
        assert totp.matching_step(SECRET, code, now) is None


def test_an_app_reads_the_secret_from_the_uri() -> None:
    """With the names of the service and the user, whatever characters these have."""
    uri = urlsplit(totp.provisioning_uri(SECRET, "ada lovelace@example.com", "A & B"))
    query = parse_qs(uri.query)
    assert (uri.scheme, uri.netloc) == ("otpauth", "totp")
    assert query["secret"] == [totp.base32(SECRET)]
    assert query["issuer"] == ["A & B"]


def test_a_code_may_be_typed_as_it_is_shown() -> None:
    """Apps show it in two groups."""
    assert totp.typed_code(" 123 456\n", "totp_code") == "123456"


def test_recovery_codes_differ_and_are_read_as_people_type_them() -> None:
    """Case, hyphens and spaces do not matter."""
    codes = new_codes()
    assert len({code_hash(code) for code in codes}) == 10
    assert code_hash(codes[0].upper().replace("-", "  ")) == code_hash(codes[0])
    with pytest.raises(InvalidArgument):
        code_hash(codes[0][:-1])
