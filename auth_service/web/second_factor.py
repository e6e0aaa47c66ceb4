"""Second factors of browser sessions in JSON: the challenge of a login, and its answer."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from auth_service.core.second_factors import FactorProof, IssuedChallenge
from auth_service.errors import InvalidArgument
from auth_service.models import FactorKind

__all__ = ["ANSWER", "challenge_content", "proof_in"]

_PROOFS = {
    "totp_code": FactorKind.TOTP,
    "recovery_code": FactorKind.RECOVERY_CODE,
    "passkey_response": FactorKind.PASSKEY,
}
ANSWER: Mapping[str, type] = {"challenge_token": str} | dict.fromkeys(_PROOFS, str)
"""The members of an answer to a challenge."""


def challenge_content(issued: IssuedChallenge, now: datetime) -> dict[str, Any]:
    """Return a challenge as a JSON object; `expires_in` is in seconds."""
    content: dict[str, Any] = {
        "challenge_token": issued.token,
        "factors": [kind.name.lower() for kind in issued.factors],
        "expires_in": max(0, int((issued.expires_at - now).total_seconds())),
    }
    if (told := issued.enrollment) is not None:
        content["enrollment"] = {"secret": told.secret, "uri": told.uri}
    if issued.passkey_options:
        content["passkey_options"] = json.loads(issued.passkey_options)
    return content


def proof_in(given: Mapping[str, str]) -> FactorProof:
    """Return what answers a challenge. Raises InvalidArgument unless there is one proof, alone."""
    present = [name for name in _PROOFS if given.get(name)]
    if len(present) != 1:
        raise InvalidArgument("challenge_token", f"needs one of: {', '.join(_PROOFS)}")
    if others := given.keys() - ANSWER.keys():
        raise InvalidArgument(min(others), "is not taken with a challenge, which has its own")
    return FactorProof(_PROOFS[present[0]], given[present[0]])
