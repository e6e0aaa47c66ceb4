"""Identity headers: no claim ends its header early, and none loses information."""

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth_service.authz.identity_headers import NAMES, identity_headers
from auth_service.tokens.access import AccessClaims
from auth_service.tokens.delegation import Link

CLAIMS = AccessClaims(
    issuer="https://auth.test",
    subject="alice",
    audience=("billing",),
    expires_at=900,
    issued_at=0,
    token_id="jti",
    session_id="0192f0c1-7f2e-4c1b-9c57-0d7b2f1f4a10",
    client_id="web",
    scope=("read", "orders:write"),
    roles=("user", "clerk"),
    auth_time=0,
    amr=("pwd",),
)
# JSON can spell lone surrogates, so that they are among the text that a token may hold.
texts = st.text(st.characters(exclude_categories=()), min_size=1) | st.text(
    "ab,%25\r\n\0 \t\x7f\x80ü😀\ud800\"'\\", min_size=1
)
many = st.lists(texts).map(tuple)


def decoded(value: str) -> str:
    """Read one item as an upstream does."""
    return unquote(value, errors="surrogatepass")


def test_plain_claims_are_written_as_they_are() -> None:
    """The headers that an upstream sees for a usual token."""
    assert identity_headers(CLAIMS) == {
        "x-auth-subject": "alice",
        "x-auth-session": "0192f0c1-7f2e-4c1b-9c57-0d7b2f1f4a10",
        "x-auth-scope": "read orders:write",
        "x-auth-roles": "user,clerk",
        "x-auth-actor": "",
    }


def test_the_actors_are_a_list_as_roles_are() -> None:
    """The one that calls first; a comma in a name separates nothing."""
    chain = (Link("orders", 1, "b", 1), Link("gate,way", 1, "a", 1))
    headers = identity_headers(CLAIMS._replace(chain=chain))
    assert headers["x-auth-actor"] == "orders,gate%2Cway"


def test_an_anonymous_caller_has_none_of_the_headers() -> None:
    """Each header has an empty value, so that the proxy removes it."""
    assert identity_headers(None) == dict.fromkeys(NAMES, "")


def test_what_a_token_does_not_have_is_empty() -> None:
    """A service account has no session, and may have neither scope nor roles."""
    bare = CLAIMS._replace(session_id="", scope=(), roles=())
    assert identity_headers(bare) == dict.fromkeys(NAMES, "") | {"x-auth-subject": "alice"}


@pytest.mark.parametrize(
    ("role", "written"),
    [
        ("on call", "on%20call"),
        ("a,admin", "a%2Cadmin"),
        ("100%", "100%25"),
        ("a%2Cadmin", "a%252Cadmin"),
        ("Führung", "F%C3%BChrung"),
        ("a\r\nx-auth-subject: root", "a%0D%0Ax-auth-subject:%20root"),
        ("a\0b", "a%00b"),
        ("a\x7fb", "a%7Fb"),
        ("a:/=;@b", "a:/=;@b"),
    ],
)
def test_a_role_is_encoded_as_rfc_3986_says(role: str, written: str) -> None:
    """UTF-8, with two upper-case digits a byte. Only ambiguous characters are encoded."""
    assert identity_headers(CLAIMS._replace(roles=(role,)))["x-auth-roles"] == written


@given(texts, texts, many, many)
def test_no_value_holds_anything_but_visible_ascii_and_separators(
    subject: str, session: str, scope: tuple[str, ...], roles: tuple[str, ...]
) -> None:
    """No line break, NUL or non-ASCII byte of a token reaches a header."""
    claims = CLAIMS._replace(subject=subject, session_id=session, scope=scope, roles=roles)
    headers = identity_headers(claims)
    assert tuple(headers) == NAMES
    for name, value in headers.items():
        visible = value.replace(" ", "") if name == "x-auth-scope" else value
        assert all("\x21" <= letter <= "\x7e" for letter in visible)


@given(texts, texts, many, many)
def test_what_is_written_can_be_read_back(
    subject: str, session: str, scope: tuple[str, ...], roles: tuple[str, ...]
) -> None:
    """A reader splits, then decodes. Different subjects differ, and no role becomes two."""
    claims = CLAIMS._replace(subject=subject, session_id=session, scope=scope, roles=roles)
    headers = identity_headers(claims)
    assert decoded(headers["x-auth-subject"]) == subject
    assert decoded(headers["x-auth-session"]) == session
    assert tuple(map(decoded, headers["x-auth-scope"].split())) == scope
    assert tuple(map(decoded, filter(None, headers["x-auth-roles"].split(",")))) == roles
