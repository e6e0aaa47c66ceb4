"""What holds at Envoy with ext_authz and at nginx with auth_request alike."""

from calls import IDENTITY, SPOOFED, Answer, bearer, request
from cases import ADMIN, Users, claims, wait_until_expired
from check import Tally, forge


def check_refusals(tally: Tally, at: str, address: str, users: Users, expired: str) -> None:
    """Each way not to get in has its status, and 401 says what is asked for."""
    good = users.tokens().access_token
    other = users.tokens(audience="billing").access_token
    narrow = users.tokens(scope="profile").access_token
    wait_until_expired(expired)
    unauthenticated = {
        "no token": (),
        "a token that is none": (bearer("rubbish"),),
        "a forged token": (bearer(forge(good)),),
        "an expired token": (bearer(expired),),
        "a token revoked a moment ago": (bearer(users.revoked()),),
        "a token for another audience": (bearer(other),),
        "a refresh token": (bearer(users.tokens().refresh_token),),
        "another scheme": (("authorization", "Basic dXNlcjpwYXNz"),),
    }
    for what, headers in unauthenticated.items():
        answer = request(address, "/orders/1", *headers)
        kept = answer.status == 401 and answer.headers.get("www-authenticate", "").startswith("Bearer")
        tally.check(kept, f"{at}: {what} is 401 with WWW-Authenticate", answer)
    answer = request(address, "/orders/1", bearer(good), bearer(good))
    tally.check(400 <= answer.status < 500, f"{at}: two authorization headers are refused", answer)
    forbidden = {"scope": ("/orders/1", narrow), "role": ("/admin/1", good)}
    for what, (path, token) in forbidden.items():
        answer = request(address, path, bearer(token))
        tally.check(answer.status == 403, f"{at}: a token without the {what} is 403", answer)


def check_identity(tally: Tally, at: str, address: str, users: Users) -> None:
    """Upstreams learn who calls from the service, and never from the caller."""
    token = users.tokens().access_token
    said = claims(token)
    expected = {
        "x-auth-subject": [said["sub"]],
        "x-auth-session": [said["sid"]],
        "x-auth-scope": [said["scope"]],
        "x-auth-roles": [],
        "x-auth-actor": [],
    }
    answer = request(address, "/orders/1", bearer(token))
    told = {name: answer.received(name) for name in IDENTITY} if answer.status == 200 else None
    tally.check(told == expected, f"{at}: a valid token passes, and its identity with it", answer)
    answer = request(address, "/orders/1", bearer(token), *SPOOFED)
    told = {name: answer.received(name) for name in IDENTITY} if answer.status == 200 else None
    tally.check(told == expected, f"{at}: identity headers of the caller are replaced", answer)
    answer = request(address, "/admin/1", bearer(users.tokens(ADMIN).access_token))
    kept = answer.status == 200 and answer.received("x-auth-roles") == ["admin"]
    tally.check(kept, f"{at}: a token with the role passes, and the role with it", answer)

    for path, what in (("/public/1", "a public route"), ("/assets/1", "a route without a check")):
        answer = request(address, path, *SPOOFED)
        kept = answer.status == 200 and not any(map(answer.received, IDENTITY))
        tally.check(kept, f"{at}: {what} passes no identity that a caller made up", answer)
    answer = request(address, "/public/1", bearer(token))
    kept = answer.status == 200 and answer.received("x-auth-subject") == [said["sub"]]
    tally.check(kept, f"{at}: a public route names a caller with a token", answer)
    look_alikes = [(name.replace("-", "_"), "spoofed") for name in IDENTITY]
    answer = request(address, "/orders/1", bearer(token), *look_alikes)
    kept = answer.status >= 400 or not _spoofed(answer)
    tally.check(kept, f"{at}: headers that look alike (x_auth_subject) do not pass", answer)


def _spoofed(answer: Answer) -> bool:
    return any("spoofed" in values for values in answer.json["headers"].values())


def check_down(tally: Tally, at: str, address: str, token: str) -> None:
    """While the service is gone: closed, with or without a token."""
    for what, headers in (("a valid token", (bearer(token),)), ("no token", ())):
        answer = request(address, "/orders/1", *headers)
        tally.check(answer.status == 503, f"{at}: service killed: {what} is 503", answer)
    answer = request(address, "/assets/1")
    tally.check(answer.status == 200, f"{at}: service killed: what asks nothing goes on", answer)
