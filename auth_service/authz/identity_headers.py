"""The headers by which an upstream learns who calls: the same ones behind every proxy.

Owns their names and how claims are written in them. Roles and subjects may hold any text, and a
header may not: whatever is not visible ASCII, and "%" itself, is percent-encoded as UTF-8 (RFC 3986
section 2.1), and "," too within roles. So no value breaks out of its header or its list, and no two
subjects look the same. A reader splits first and decodes each item then.
"""

from urllib.parse import quote

from auth_service.tokens.access import AccessClaims

__all__ = ["NAMES", "identity_headers"]

_SUBJECT = "x-auth-subject"
_SESSION = "x-auth-session"
_SCOPE = "x-auth-scope"
_ROLES = "x-auth-roles"

NAMES = (_SUBJECT, _SESSION, _SCOPE, _ROLES)

_VISIBLE = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")
_IN_ROLES = _VISIBLE.replace(",", "")


def identity_headers(claims: AccessClaims | None) -> dict[str, str]:
    """Return the value of each of NAMES; an empty one means that the header is to be removed.

    The scope is separated by spaces, roles by commas. None stands for a stranger.
    """
    if claims is None:
        return dict.fromkeys(NAMES, "")
    return {
        _SUBJECT: _encoded(claims.subject),
        _SESSION: _encoded(claims.session_id),
        _SCOPE: " ".join(map(_encoded, claims.scope)),
        _ROLES: ",".join(_encoded(role, _IN_ROLES) for role in claims.roles),
    }


def _encoded(value: str, kept: str = _VISIBLE) -> str:
    # JSON can spell a lone surrogate, which UTF-8 cannot.
    return quote(value, safe=kept, errors="surrogatepass")
