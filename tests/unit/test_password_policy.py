"""Which passwords may be chosen, and what the errors say."""

import unicodedata
from pathlib import Path

import pytest

from auth_service.core.blocklist import Blocklist, pack
from auth_service.core.password_policy import PasswordPolicy, normalise_password
from auth_service.errors import InvalidArgument, WeakPassword
from tests import common_passwords

POLICY = PasswordPolicy(service_names=("https://auth.example.com",))
ADA = ("ada.lovelace@example.org", "lovelace")


def refusal(password: str, policy: PasswordPolicy = POLICY, *, second_factor: bool = False) -> str:
    """Return the error for a password, which it must not quote."""
    with pytest.raises(WeakPassword) as caught:
        policy.check(password, ADA, field="new_password", second_factor=second_factor)
    assert password not in caught.value.text
    assert caught.value.violations[0].field == "new_password"
    return caught.value.text


def test_a_password_alone_has_fifteen_characters_and_with_a_factor_eight() -> None:
    """NIST SP 800-63B-4 section 3.1.1.2."""
    POLICY.check("fifteen letters", ADA)
    assert "must have 15 characters" in refusal("fourteen chars")
    POLICY.check("8 letter", ADA, second_factor=True)
    assert "must have 8 characters" in refusal("7 lette", second_factor=True)


def test_the_lengths_are_settings() -> None:
    """An operator may ask for more."""
    longer = PasswordPolicy(min_length=20, min_length_with_factor=10)
    assert "must have 20 characters" in refusal("nineteen characters", longer)
    assert "must have 10 characters" in refusal("nine char", longer, second_factor=True)


def test_length_is_counted_in_code_points_of_the_normal_form() -> None:
    """An accent that is typed as a character of its own does not count."""
    text = "fêté à noël, çà"
    POLICY.check(text, ADA)
    decomposed = unicodedata.normalize("NFD", text[:-1])
    assert len(decomposed) > 15
    assert "must have 15 characters" in refusal(decomposed)


@pytest.mark.parametrize(
    "password",
    [
        "all of it lower case letters",
        "ALL OF IT UPPER CASE LETTERS",
        "31415926535897932384626433",
        "Пароль из слов по-русски",
        "合言葉は誰にも教えてはいけませんよ",
        "emoji 🐴🔋 are characters",
        "correcthorsebatterystaple",
    ],
)
def test_there_are_no_rules_of_composition(password: str) -> None:
    """Any characters of Unicode do, spaces among them."""
    POLICY.check(password, ADA)


@pytest.mark.parametrize(
    "password", ["passwordpassword", "123456789012345", "MASSACHUSETTS", "telecommunications"]
)
def test_a_common_password_is_refused(password: str) -> None:
    """Also in another case, or said twice."""
    assert "is common" in refusal(password, PasswordPolicy(min_length=8))


def test_only_the_whole_password_is_compared() -> None:
    """NIST SP 800-63B-4 section 3.1.1.2: a sentence may contain common words."""
    POLICY.check("telecommunications password", ADA)


@pytest.mark.parametrize("password", ["aaaaaaaaaaaaaaa", "abcabcabcabcabcab", "x1y2z3wx1y2z3wx1"])
def test_a_repetition_is_refused(password: str) -> None:
    """Of a piece that is too short to be a password."""
    assert "repeats" in refusal(password)


@pytest.mark.parametrize(
    "password",
    [
        "ada.lovelace@example.org",
        "ADA.LOVELACE@example.org1",
        "adalovelace2026!",
        "lovelace-lovelace-1843",
        "auth.example.com",
        "ｅｘａｍｐｌｅlovelace",
    ],
)
def test_a_password_of_the_accounts_own_words_is_refused(password: str) -> None:
    """Identifiers, their parts and the service's name, with little else."""
    assert "identifiers" in refusal(password)


def test_own_words_may_be_a_part_of_a_password() -> None:
    """Eight other characters are enough, and words of three letters are everywhere."""
    POLICY.check("lovelace wrote the first program", ADA)
    POLICY.check("adamant badas ada", ("ada",))


def test_the_operators_file_is_a_further_list(tmp_path: Path) -> None:
    """A password a line, in whatever case, with either end of line, and whatever else is there."""
    file = tmp_path / "blocklist.txt"
    file.write_bytes(
        "Battery Staple of Ada\r\nПароль из слов\n".encode() + b"\xff\xfe\n\nlast line here"
    )
    policy = PasswordPolicy(min_length=8, blocklist=Blocklist(file))
    for password in ("battery staple of ada", "ПАРОЛЬ ИЗ СЛОВ", "last line here", "password1"):
        assert "is common" in refusal(password, policy)
    policy.check("battery staple of bob", ADA)


def test_the_packed_list_is_that_of_zxcvbn() -> None:
    """`python -m tests.common_passwords` writes it anew."""
    words = common_passwords.words()
    assert common_passwords.FILE.read_bytes() == pack(words)
    assert len(words) > 40_000
    blocklist = Blocklist()
    assert all(word in blocklist for word in sorted(words)[::1000])


def test_composed_and_decomposed_are_one_password() -> None:
    """The same keys on two keyboards give the same password, and case still matters."""
    assert normalise_password("cafe\u0301") == normalise_password("caf\xe9") == "caf\xe9"
    assert normalise_password("A") != normalise_password("a")


@pytest.mark.parametrize("password", ["x" * 1025, "é" * 513, "a\ud800"])
def test_an_impossible_password_is_refused(password: str) -> None:
    """Too long in UTF-8, or not Unicode text: the error names the field, not the password."""
    with pytest.raises(InvalidArgument, match=r"^secret: ") as caught:
        POLICY.check(password, field="secret")
    assert password not in caught.value.text
    assert normalise_password("é" * 512) == "é" * 512


def test_a_password_of_the_greatest_length_is_checked() -> None:
    """At least 64 characters must be possible; here 1,024 are."""
    POLICY.check("".join(chr(ord("a") + n * n % 23) + str(n) for n in range(280))[:1024], ADA)
