"""Envoy serves the gRPC API as JSON: deploy/envoy/transcoder.yaml."""

import secrets

from calls import Answer, bearer, request
from cases import CLERK, Users
from check import Tally
from processes import TRANSCODER

AT = "transcoder"
ISSUER = "https://auth.internal"  # the audience of the service's own API


def check(tally: Tally, users: Users) -> None:
    """Login, Refresh, Validate and Revoke in JSON, and each refusal with its reason."""
    password = {"identifier": CLERK, "password": users.passwords[CLERK]}
    answer = _post("login", {"password": password, "audience": ["orders"]})
    tally.check(answer.status == 200, f"{AT}: Login in JSON gives a token pair", answer.status)
    first = answer.json["tokens"]
    answer = _validate(first)
    kept = answer.status == 200 and answer.json["active"] is True
    tally.check(kept, f"{AT}: Validate finds the access token active", answer)

    answer = _post("refresh", {"refresh_token": first["refresh_token"]})
    second = answer.json.get("tokens", {})
    kept = answer.status == 200 and second["session_id"] == first["session_id"]
    kept = kept and second["refresh_token"] != first["refresh_token"]
    tally.check(kept, f"{AT}: Refresh gives the session's next pair", answer.status)
    again = _post("refresh", {"refresh_token": first["refresh_token"]}).json.get("tokens", {})
    kept = again.get("refresh_token") == second["refresh_token"]
    tally.check(kept, f"{AT}: the retry of a Refresh gives the same successor", again.keys())

    answer = _post("revoke", {"refresh_token": second["refresh_token"]})
    tally.check(answer.status == 200 and answer.json == {}, f"{AT}: Revoke answers {{}}", answer)
    answer = _validate(second)
    reason = "INACTIVE_REASON_SESSION_REVOKED"
    kept = answer.json["active"] is False and answer.json["inactive_reason"] == reason
    tally.check(kept, f'{AT}: Validate then says "active": false and {reason}', answer)

    answer = _post("refresh", {"refresh_token": second["refresh_token"]})
    _refused(tally, "Refresh in the revoked session", answer, 401, "INVALID_GRANT")
    wrong = {"identifier": CLERK, "password": secrets.token_urlsafe(24)}
    answer = _post("login", {"password": wrong})
    _refused(tally, "a wrong password", answer, 401, "INVALID_CREDENTIALS")
    answer = _post("login", {})
    _refused(tally, "Login of nothing", answer, 400, "INVALID_ARGUMENT")
    kept = bool(_detail(answer, "BadRequest").get("field_violations"))
    tally.check(kept, f"{AT}: Login of nothing names the field", answer)
    answer = request(TRANSCODER, "/v1/account", bearer("rubbish"))
    _refused(tally, "GET /v1/account with a token that is none", answer, 401, "INVALID_TOKEN")
    kept = answer.headers.get("www-authenticate", "").startswith("Bearer")
    tally.check(kept, f"{AT}: and says so in WWW-Authenticate too", answer)
    answer = request(TRANSCODER, "/v1/account", bearer(users.tokens(audience=ISSUER, scope="").access_token))
    kept = answer.status == 200 and CLERK in answer.body.decode()
    tally.check(kept, f"{AT}: GET /v1/account with a valid token is the caller's account", answer)
    for what, body, path in (
        ("an unknown path", {}, "/v1/auth/nothing"),
        ("an unknown query parameter", {}, "/v1/auth/login?identifier=x"),
    ):
        answer = request(TRANSCODER, path, body=body)
        tally.check(400 <= answer.status < 500, f"{AT}: {what} is refused", answer)


def _post(method: str, body: object) -> Answer:
    return request(TRANSCODER, f"/v1/auth/{method}", body=body)


def _validate(tokens: dict[str, str]) -> Answer:
    return _post("validate", {"access_token": tokens["access_token"]})


def _detail(answer: Answer, name: str) -> dict[str, object]:
    kind = f"type.googleapis.com/google.rpc.{name}"
    details = answer.json.get("details", ())
    return next((item for item in details if item.get("@type") == kind), {})


def _refused(tally: Tally, what: str, answer: Answer, status: int, reason: str) -> None:
    info = _detail(answer, "ErrorInfo")
    kept = answer.status == status and (info.get("reason"), info.get("domain")) == (reason, "authn")
    tally.check(kept, f"{AT}: {what} is {status} with ErrorInfo {reason}", answer)
