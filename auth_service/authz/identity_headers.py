"""The headers that tell an upstream who the caller is, the same behind every proxy.

Owns their names and their encoding. Roles and subjects may hold any text, but a header may not.
Everything except visible ASCII is percent-encoded as UTF-8 (RFC 3986 section 2.1), and so are "%",
and "," in roles and actors. Then no value can end its header or its list, and different subjects
have different values. A reader must split a list before it decodes the items.
"""

from urllib.parse import quote

from auth_service.tokens.access import AccessClaims

__all__ = ["NAMES", "identity_headers"]

_SUBJECT = "x-auth-subject"
_SESSION = "x-auth-session"
_SCOPE = "x-auth-scope"
_ROLES = "x-auth-roles"
_ACTOR = "x-auth-actor"

NAMES = (_SUBJECT, _SESSION, _SCOPE, _ROLES, _ACTOR)

_VISIBLE = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")
_IN_LIST = _VISIBLE.replace(",", "")


def identity_headers(claims: AccessClaims | None) -> dict[str, str]:
    """Return the value of each of NAMES. A header with an empty value must be removed.

    Spaces separate scopes, commas separate roles and actors. The actors are the services that act
    for the subject, the one that calls first. None stands for an anonymous caller.
    """
    if claims is None:
        return dict.fromkeys(NAMES, "")
    return {
        _SUBJECT: _encoded(claims.subject),
        _SESSION: _encoded(claims.session_id),
        _SCOPE: " ".join(map(_encoded, claims.scope)),
        _ROLES: ",".join(_encoded(role, _IN_LIST) for role in claims.roles),
        _ACTOR: ",".join(_encoded(link.actor, _IN_LIST) for link in claims.chain),
    }


def _encoded(value: str, kept: str = _VISIBLE) -> str:
    # JSON can express a lone surrogate, which UTF-8 cannot.
    return quote(value, safe=kept, errors="surrogatepass")
