"""Second factors of browser sessions in JSON: the challenge of a login, and its answer."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from auth_service.core.second_factors import PROOFS, FactorProof, IssuedChallenge
from auth_service.errors import InvalidArgument

__all__ = ["ANSWER", "challenge_content", "proof_in"]

ANSWER: Mapping[str, type] = {"challenge_token": str} | dict.fromkeys(PROOFS, str)
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
    present = [name for name in PROOFS if given.get(name)]
    if len(present) != 1:
        raise InvalidArgument("challenge_token", f"needs one of: {', '.join(PROOFS)}")
    if others := given.keys() - ANSWER.keys():
        raise InvalidArgument(min(others), "is not taken with a challenge, which has its own")
    return FactorProof(PROOFS[present[0]], given[present[0]])
