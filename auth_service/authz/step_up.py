"""The challenge that sends a user to log in again, or by more factors (RFC 9470 section 3).

Owns its two forms: the value of www-authenticate, and the metadata of google.rpc.ErrorInfo. Both
hold all that is demanded, also what the token satisfies already, so that one login is enough.
"""

import re
from collections.abc import Mapping
from datetime import timedelta

from auth_service.errors import InsufficientUserAuthentication

__all__ = ["ERROR", "challenge", "demands", "of_challenge", "of_demands"]

ERROR = "insufficient_user_authentication"
"""The error code of RFC 9470."""

_SECONDS = re.compile(r"[0-9]{1,10}")
# A parameter, or else the name of a scheme (RFC 9110 sections 11.3 and 11.6.1).
_PART = re.compile(
    r"""([\w!#$%&'*+.^`|~-]+)(\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+)))?""", re.ASCII
)


def challenge(error: InsufficientUserAuthentication) -> str:
    """Return the value of www-authenticate."""
    parameters = {"error": ERROR, "error_description": error.text, **demands(error)}
    return "Bearer " + ", ".join(f'{name}="{value}"' for name, value in parameters.items())


def demands(error: InsufficientUserAuthentication) -> dict[str, str]:
    """Return what is demanded, as the texts of RFC 9470: `acr_values` and `max_age`."""
    texts = {}
    if error.acr_values:
        texts["acr_values"] = " ".join(error.acr_values)
    if error.max_age is not None:
        texts["max_age"] = str(max(0, int(error.max_age.total_seconds())))
    return texts


def of_challenge(www_authenticate: str) -> InsufficientUserAuthentication | None:
    """Return the error that a value of www-authenticate tells of; None if it tells of another.

    A value may hold challenges of several schemes; names are read without regard to their case.
    """
    challenges: list[tuple[str, dict[str, str]]] = []
    for name, is_parameter, quoted, token in _PART.findall(www_authenticate):
        if not is_parameter:
            challenges.append((name.lower(), {}))
        elif challenges:
            challenges[-1][1][name.lower()] = token or re.sub(r"\\(.)", r"\1", quoted)
    for scheme, parameters in challenges:
        if scheme == "bearer" and parameters.get("error") == ERROR:
            return of_demands(parameters)
    return None


def of_demands(texts: Mapping[str, str]) -> InsufficientUserAuthentication:
    """Return the error with what these texts demand. A `max_age` that is no number demands none."""
    age = texts.get("max_age", "")
    max_age = timedelta(seconds=int(age)) if _SECONDS.fullmatch(age) else None
    return InsufficientUserAuthentication(max_age, tuple(texts.get("acr_values", "").split()))
