"""Envoy verifies tokens itself with the published keys: deploy/envoy/jwt-authn.yaml."""

import http.client
import json
import sys
import time
from collections.abc import Mapping

from calls import IDENTITY, SPOOFED, bearer, request
from cases import Users, claims, wait_until_expired
from check import START_SECONDS, MismatchError, Tally, forge, run
from processes import JWT_AUTHN

AT = "jwt_authn"
LEEWAY = 6.0  # seconds: clock_skew_seconds of the file, and one
LEAD = "15s"  # longer than cache_duration of the file, and short for the sake of the test
ROTATION_SECONDS = 60.0


def check(tally: Tally, users: Users, expired: str) -> None:
    """What Envoy decides by itself."""
    tokens = users.tokens()
    token = tokens.access_token
    answer = request(JWT_AUTHN, "/orders/1", bearer(token), *SPOOFED)
    told = {name: answer.received(name) for name in IDENTITY} if answer.status == 200 else {}
    said = claims(token)
    expected = {
        "x-auth-subject": [said["sub"]],
        "x-auth-session": [said["sid"]],
        "x-auth-scope": [said["scope"]],
        "x-auth-roles": [],
        "x-auth-actor": [],
    }
    tally.check(told == expected, f"{AT}: a valid token passes, and its claims as headers", answer)
    wait_until_expired(expired, LEEWAY)
    refusals = {
        "no token": ((), 401),
        "a token that is none": ((bearer("rubbish"),), 401),
        "a forged token": ((bearer(forge(token)),), 401),
        "an expired token": ((bearer(expired),), 401),
        "a refresh token": ((bearer(tokens.refresh_token),), 403),  # it has no audience
        "two tokens": ((bearer(token), bearer(token)), 401),
        "a token for another audience": ((bearer(users.tokens(audience="billing").access_token),), 403),
    }
    for what, (headers, status) in refusals.items():
        answer = request(JWT_AUTHN, "/orders/1", *headers)
        tally.check(answer.status == status, f"{AT}: {what} is {status}", answer)
    answer = request(JWT_AUTHN, "/orders/1", ("cookie", "a=b"), *SPOOFED)
    tally.check(answer.status == 401, f"{AT}: identity headers are no token", answer)
    answer = request(JWT_AUTHN, "/assets/1", *SPOOFED)
    kept = answer.status == 200 and not any(map(answer.received, IDENTITY))
    tally.check(kept, f"{AT}: a route without a check passes no identity that a caller made up", answer)
    answer = request(JWT_AUTHN, "/orders/1", bearer(users.revoked()))
    tally.check(answer.status == 200, f"{AT}: a revoked token passes until it expires, as documented", answer)


def check_rotation(tally: Tally, users: Users, env: Mapping[str, str]) -> None:
    """Requests without a pause, with tokens new and old, while the key changes."""
    old = users.tokens().access_token
    before = _kid(old)
    command = (sys.executable, "-m", "auth_service", "keys", "rotate", "--activate-in", LEAD, "--json")
    rotated = run(*command, env=env)
    if rotated.returncode:
        raise MismatchError(f"keys rotate\n  seen: {rotated.stdout}{rotated.stderr}")
    after = json.loads(rotated.stdout)["kid"]
    deadline = time.monotonic() + ROTATION_SECONDS
    connection = http.client.HTTPConnection(JWT_AUTHN, timeout=START_SECONDS)
    statuses: dict[str, dict[int, int]] = {before: {}, after: {}}
    newest, beyond = old, 0
    while beyond < 200 and time.monotonic() < deadline:
        newest = users.tokens().access_token if beyond < 50 else newest
        for token in (newest, old):
            connection.request("GET", "/orders/1", headers=dict([bearer(token)]))
            response = connection.getresponse()
            response.read()
            seen = statuses[_kid(token)]
            seen[response.status] = seen.get(response.status, 0) + 1
        beyond += _kid(newest) == after
    connection.close()
    kept = set(statuses[before]) == {200} and set(statuses[after]) == {200}
    count = sum(sum(seen.values()) for seen in statuses.values())
    tally.check(kept, f"{AT}: {count} requests through a rotation of keys, and not one 401", statuses)


def _kid(token: str) -> str:
    return str(claims(token, 0)["kid"])
