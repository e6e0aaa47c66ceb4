"""Envoy asks the service about every request: deploy/envoy/ext-authz.yaml."""

import time

import gateways
from authn.v1 import auth_service_pb2 as pb
from calls import SPOOFED, auth, bearer, grpc_call, request
from cases import GATEWAY, Users, claims
from check import START_SECONDS, MismatchError, Tally, forge
from processes import EXT_AUTHZ, Service

AT = "ext_authz"
METHOD = "/demo.v1.Echo/Echo"


def check(tally: Tally, users: Users, expired: str) -> None:
    """Run all checks that need the service alive."""
    gateways.check_refusals(tally, AT, EXT_AUTHZ, users, expired)
    gateways.check_identity(tally, AT, EXT_AUTHZ, users)
    _check_own_rules(tally, users)
    _check_grpc(tally, users)
    _check_exchange(tally, users)


def _check_own_rules(tally: Tally, users: Users) -> None:
    token = users.tokens().access_token
    answer = request(EXT_AUTHZ, "/partner/1", bearer(token))
    kept = answer.status == 200 and not answer.received("authorization")
    kept = kept and answer.received("x-auth-subject") == [claims(token)["sub"]]
    tally.check(kept, f"{AT}: remove_authorization keeps the token from the upstream", answer)
    answer = request(EXT_AUTHZ, "/transfers/1", bearer(token))
    kept = answer.status == 401 and answer.headers.get("www-authenticate") == (
        'Bearer error="insufficient_user_authentication", '
        'error_description="a login by other or more factors is required", '
        'acr_values="2fa phr", max_age="300"'
    )
    tally.check(kept, f"{AT}: a password alone does not open a route that needs two factors", answer)
    for path in ("/assets/%2e%2e%2forders/1", "/assets/..%2forders/1", "/assets/%2e%2e/orders/1"):
        answer = request(EXT_AUTHZ, path)
        kept = answer.status in (400, 401)
        tally.check(kept, f"{AT}: {path} does not get around the rule of /orders/", answer)


def _check_grpc(tally: Tally, users: Users) -> None:
    token = users.tokens().access_token
    answer = grpc_call(EXT_AUTHZ, METHOD, bearer(token), *SPOOFED)
    kept = answer.code == "OK" and answer.headers["x-auth-subject"] == claims(token)["sub"]
    tally.check(kept, f"{AT}: gRPC: a valid token passes, and its identity with it", answer)
    refusals = {
        "no token": ((), "UNAUTHENTICATED"),
        "a forged token": ((bearer(forge(token)),), "UNAUTHENTICATED"),
        "a revoked token": ((bearer(users.revoked()),), "UNAUTHENTICATED"),
        "a missing scope": (
            (bearer(users.tokens(scope="profile").access_token),),
            "PERMISSION_DENIED",
        ),
    }
    for what, (metadata, code) in refusals.items():
        answer = grpc_call(EXT_AUTHZ, METHOD, *metadata)
        tally.check(answer.code == code, f"{AT}: gRPC: {what} is {code}", answer)


def _check_exchange(tally: Tally, users: Users) -> None:
    """Two upstreams, each of which sees a token for itself only."""
    tokens = users.tokens(audience="internal")
    caller, exchanged = tokens.access_token, []
    for path, audience in (("/shop/1", "orders"), ("/invoices/1", "billing")):
        answer = request(EXT_AUTHZ, path, bearer(caller))
        seen = answer.received("authorization")
        kept = answer.status == 200 and len(seen) == 1 and caller not in str(answer.body)
        if kept:
            exchanged.append(seen[0].removeprefix("Bearer "))
            found = claims(exchanged[-1])
            kept = found["aud"] == [audience] and found["act"] == {"sub": GATEWAY}
            kept = kept and found["sub"] == claims(caller)["sub"]
        tally.check(kept, f"{AT}: {path} sees a token for {audience} only", answer)
    active = [_is_active(token) for token in exchanged]
    tally.check(active == [True, True], f"{AT}: both are active", active)
    auth("Revoke", pb.RevokeRequest(refresh_token=tokens.refresh_token))
    for path in ("/shop/1", "/invoices/1"):
        answer = request(EXT_AUTHZ, path, bearer(caller))
        tally.check(answer.status == 401, f"{AT}: the session revoked, {path} is 401", answer)
    active = [_is_active(token) for token in exchanged]
    tally.check(active == [False, False], f"{AT}: and both exchanged tokens have ended", active)


def _is_active(token: str) -> bool:
    return bool(auth("Validate", pb.ValidateRequest(access_token=token)).active)


def check_down(tally: Tally, token: str) -> None:
    """While the service is gone."""
    gateways.check_down(tally, AT, EXT_AUTHZ, token)
    answer = grpc_call(EXT_AUTHZ, METHOD, bearer(token))
    kept = answer.code == "UNAVAILABLE"
    tally.check(kept, f"{AT}: service killed: a gRPC call is UNAVAILABLE", answer)


def check_recovery(tally: Tally, service: Service, address: str, at: str, token: str) -> None:
    """Once the service is there again, the same token passes, and nothing was restarted."""
    assert service.process is not None
    deadline = time.monotonic() + START_SECONDS
    while (answer := request(address, "/orders/1", bearer(token))).status != 200:
        if time.monotonic() > deadline:
            raise MismatchError(f"{at}: the service back, requests pass again\n  seen: {answer}")
        time.sleep(0.05)
    tally.check(True, f"{at}: the service back, the same token passes again", answer)
