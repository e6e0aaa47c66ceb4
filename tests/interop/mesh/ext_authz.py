"""Envoy asks the service about every request: deploy/envoy/ext-authz.yaml."""

import time

import gateways
from calls import SPOOFED, bearer, grpc_call, request
from cases import Users, claims
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


def _check_own_rules(tally: Tally, users: Users) -> None:
    token = users.tokens().access_token
    answer = request(EXT_AUTHZ, "/partner/1", bearer(token))
    kept = answer.status == 200 and not answer.received("authorization")
    kept = kept and answer.received("x-auth-subject") == [claims(token)["sub"]]
    tally.check(kept, f"{AT}: remove_authorization keeps the token from the upstream", answer)
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
