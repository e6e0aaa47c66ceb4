"""Does a refused login tell by its bytes or its time why it was refused?

An unknown user, a wrong password, a disabled user and a wrong code of a second factor, in turn,
one call at a time. Each password is for an identifier that was not tried before, since attempts
with one identifier are limited. All codes are those of one user, whose attempts are not.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import asyncpg
import grpc
import pyotp
from authn.v1 import account_service_pb2 as account_pb
from authn.v1 import account_service_pb2_grpc as account_rpc
from authn.v1 import auth_service_pb2 as pb
from authn.v1 import auth_service_pb2_grpc as rpc

from benchmarks.figures import Verdict, show
from benchmarks.login import argon2
from benchmarks.premises import require
from benchmarks.replicas import database
from benchmarks.tables import PASSWORD, fill

CALLS = 500
WARM_UP = 20
CODES = 20
"""Wrong codes for each challenge, which lives for five minutes; a code is wrong for one."""
TRACES = {"x-request-id", "traceparent"}
"""Trailers that differ in each call."""


def main() -> list[Verdict]:
    """Print the medians in milliseconds."""
    return asyncio.run(_main())


async def _main() -> list[Verdict]:
    users = 3 * (CALLS + WARM_UP)
    attempts = str(10 * users)
    settings = {"AUTH_LOGIN_BURST": attempts, "AUTH_FACTOR_BURST": attempts}
    async with database() as service:
        await fill(service.database_url, sessions=5 * users, argon2_hash=argon2().hash(PASSWORD))
        await _disable(service.database_url)
        async with (
            service.server(settings) as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            stub: Any = rpc.AuthServiceStub(channel)
            await _require_login(stub)
            secret = await _enroll(stub, account_rpc.AccountServiceStub(channel))
            return await _measure(stub, secret)


async def _disable(url: str) -> None:
    """Disable every third user."""
    connection = await asyncpg.connect(url)
    await connection.execute(
        "UPDATE users SET disabled = true FROM user_identifiers i WHERE i.user_id = users.id "
        "AND substr(i.identifier, 6)::int % 3 = 0"
    )
    await connection.close()


async def _require_login(stub: Any) -> None:
    """The premise: users who are not disabled are let in with the right password."""
    credentials = pb.PasswordCredentials(identifier="user-1", password=PASSWORD)
    answer = await stub.Login(pb.LoginRequest(password=credentials))
    require(answer.tokens.access_token != "", "user-1 cannot log in")


async def _enroll(stub: Any, accounts: Any) -> str:
    """Enroll an authenticator app of user-1, and return its secret."""
    tokens = (await stub.Login(_password("user-1", PASSWORD))).tokens
    metadata = (("authorization", f"Bearer {tokens.access_token}"),)
    begun = await accounts.BeginTotpEnrollment(
        account_pb.BeginTotpEnrollmentRequest(), metadata=metadata
    )
    secret: str = begun.enrollment.secret
    confirm = account_pb.ConfirmTotpEnrollmentRequest(
        enrollment_token=begun.enrollment_token, totp_code=pyotp.TOTP(secret).now()
    )
    await accounts.ConfirmTotpEnrollment(confirm, metadata=metadata)
    return secret


async def _wrong_code(stub: Any, secret: str) -> pb.LoginRequest:
    """Return the answer to a new challenge with a code that is not good, nor within a minute."""
    answer = await stub.Login(_password("user-1", PASSWORD))
    require(answer.challenge.challenge_token != "", "user-1 is not challenged")
    app, now = pyotp.TOTP(secret), int(time.time())
    good = {app.at(now + 30 * step) for step in range(-2, 5)}
    wrong = next(code for code in map("{:06}".format, range(8)) if code not in good)
    factor = pb.FactorCredentials(challenge_token=answer.challenge.challenge_token, totp_code=wrong)
    return pb.LoginRequest(factor=factor)


def _password(identifier: str, password: str) -> pb.LoginRequest:
    credentials = pb.PasswordCredentials(identifier=identifier, password=password)
    return pb.LoginRequest(password=credentials)


async def _measure(stub: Any, secret: str) -> list[Verdict]:
    kinds: dict[str, Callable[[int], pb.LoginRequest]] = {
        "unknown user": lambda number: _password(f"nobody-{number}", PASSWORD),
        "wrong password": lambda number: _password(
            f"user-{3 * number + 2}", "correct horse battery stable"
        ),
        "disabled user": lambda number: _password(f"user-{3 * number + 3}", PASSWORD),
        "wrong code": lambda _: wrong_code,
    }
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    answers: set[tuple[object, ...]] = set()
    for number in range(WARM_UP + CALLS):
        if number % CODES == 0:
            wrong_code = await _wrong_code(stub, secret)
        order = sorted(kinds, key=lambda name: hash((name, number)))  # none is always the first
        for name in order:
            seconds, answer = await _refused(stub, kinds[name](number))
            answers.add(answer)
            if number >= WARM_UP:
                taken[name].append(seconds * 1000)
    require(len(answers) == 1, f"refusals differ: {answers}")
    show(taken, "ms", 2)
    medians = {name: sorted(each)[len(each) // 2] for name, each in taken.items()}
    spread = max(medians.values()) / min(medians.values())
    return [
        Verdict(
            "slowest of the refusals of a login, of the fastest (medians)",
            [spread], at_most=1.03, sides=medians,
        )
    ]  # fmt: skip


async def _refused(stub: Any, request: pb.LoginRequest) -> tuple[float, tuple[object, ...]]:
    """Return how long a refusal takes, and all that it tells."""
    began = time.perf_counter()
    try:
        await stub.Login(request)
    except grpc.aio.AioRpcError as error:
        taken = time.perf_counter() - began
        trailers = [pair for pair in error.trailing_metadata() or () if pair[0] not in TRACES]
        initial = [pair for pair in error.initial_metadata() or () if pair[0] not in TRACES]
        told = error.code(), error.details(), tuple(trailers), tuple(initial)
        require(error.code() is grpc.StatusCode.UNAUTHENTICATED, f"refused: {error}")
        return taken, told
    raise AssertionError("somebody was let in")
