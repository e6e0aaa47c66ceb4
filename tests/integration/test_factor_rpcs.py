"""Second factors over the wire: a login in two steps, on two replicas of one database."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import structlog
from authn.v1 import account_service_pb2 as account
from authn.v1 import auth_service_pb2 as pb
from authn.v1.account_service_pb2_grpc import AccountServiceStub
from google.protobuf.duration_pb2 import Duration

from auth_service.clock import utc_now
from auth_service.tokens.assurance import MULTI_FACTOR
from tests.acceptance.servers import PASSWORD, USER, Client, make_user
from tests.integration.authenticator import STEP, App
from tests.integration.serving import Refusal, address, make_settings, query, refusal, running

TIMEOUT = 120.0  # seconds, which no passing test takes
CALLS = int(os.environ.get("AUTH_TEST_CODE_CALLS", "100"))
"""How often one code is presented at once; 1,000 take some seconds."""


class Replicas:
    """Two servers on one database, and a user with an authenticator app."""

    def __init__(self, clients: list[Client], database_url: str) -> None:
        self.clients = clients
        self.database_url = database_url
        self.app = App("")
        self.recovery_codes: list[str] = []
        self.weak: Any = None
        """The tokens of a session that began with the password alone."""
        self.steps = 0

    async def begin(self, password: str = PASSWORD, user: str = USER, **more: Any) -> Any:
        """Return the answer to a password."""
        credentials = pb.PasswordCredentials(identifier=user, password=password)
        request = pb.LoginRequest(password=credentials, **more)
        return await self.clients[0].auth.Login(request, timeout=TIMEOUT)

    async def answer(self, challenge: Any, at: int = 0, **proof: str) -> Any:
        """Answer a challenge at one of the replicas."""
        factor = pb.FactorCredentials(challenge_token=challenge.challenge_token, **proof)
        return await self.clients[at].auth.Login(pb.LoginRequest(factor=factor), timeout=TIMEOUT)

    async def next_code(self) -> str:
        """Return a code that was not used before: all earlier ones are forgotten."""
        await query(self.database_url, "UPDATE user_factors SET counter = 0")
        return self.app.code(utc_now())

    async def demand_two_factors(self, token: str) -> Any:
        """Validate a token for a use that needs a login of the last hour by two factors."""
        hour = Duration(seconds=3600)
        request = pb.ValidateRequest(access_token=token, max_age=hour, acr_values=MULTI_FACTOR)
        return await self.clients[0].auth.Validate(request, timeout=TIMEOUT)

    async def call(self, method: str, request: Any, token: str) -> Any:
        """Call a method of AccountService."""
        stub = AccountServiceStub(self.clients[1].channel)
        metadata = (("authorization", f"Bearer {token}"),)
        return await getattr(stub, method)(request, metadata=metadata, timeout=TIMEOUT)

    async def enroll(self) -> None:
        """Enroll the app."""
        self.weak = (await self.begin()).tokens
        token = self.weak.access_token
        begun = await self.call("BeginTotpEnrollment", account.BeginTotpEnrollmentRequest(), token)
        self.app = App(begun.enrollment.secret)
        request = account.ConfirmTotpEnrollmentRequest(
            enrollment_token=begun.enrollment_token,
            totp_code=self.app.code(utc_now()),
            name="phone",
        )
        answer = await self.call("ConfirmTotpEnrollment", request, token)
        self.recovery_codes = list(answer.recovery_codes)


@pytest.fixture
async def replicas(database_url: str) -> AsyncIterator[Replicas]:
    """The two servers; they refuse nobody for lack of attempts or of room."""
    await make_user(database_url)
    many = 10_000
    settings = make_settings(
        database_url,
        factor_burst=many,
        login_burst=many,
        hash_queue=many,
        max_concurrent_streams=many,
        http_address="off",
    )
    async with running(settings) as first, running(settings) as second:
        clients = [await Client(address(server)).ready() for server in (first, second)]
        replicas = Replicas(clients, database_url)
        await replicas.enroll()
        yield replicas
        for client in clients:
            await client.channel.close()
    structlog.reset_defaults()


async def test_of_many_calls_with_one_code_at_two_replicas_one_logs_in(replicas: Replicas) -> None:
    """Each of the others is refused for the code, and none for another reason."""
    challenges = [(await replicas.begin()).challenge for _ in range(4)]
    code = await replicas.next_code()
    answers = await asyncio.gather(
        *(replicas.answer(challenges[n % 4], n // 4 % 2, totp_code=code) for n in range(CALLS)),
        return_exceptions=True,
    )
    accepted = [answer for answer in answers if isinstance(answer, pb.LoginResponse)]
    assert [bool(each.tokens.access_token) for each in accepted] == [True]
    refused = [Refusal(a) for a in answers if isinstance(a, grpc.aio.AioRpcError)]
    assert Counter((each.code, each.reason, each.text) for each in refused) == {
        (grpc.StatusCode.UNAUTHENTICATED, "INVALID_CREDENTIALS", "the credentials are not valid"): (
            CALLS - 1
        )
    }


async def test_a_login_in_two_steps(replicas: Replicas) -> None:
    """A challenge of one replica is completed at the other; then the session is as any other."""
    answer = await replicas.begin(scope=["read"])
    assert not answer.HasField("tokens")
    challenge = answer.challenge
    assert set(challenge.factors) == {pb.FACTOR_KIND_TOTP, pb.FACTOR_KIND_RECOVERY_CODE}
    left = (
        challenge.expires_at.ToDatetime().timestamp() - utc_now().replace(tzinfo=None).timestamp()
    )
    assert 200 < left <= 300
    code = await replicas.next_code()
    tokens = (await replicas.answer(challenge, 1, totp_code=code)).tokens
    claims = (await replicas.clients[0].validate(tokens.access_token)).claims
    assert list(claims.authentication_methods) == ["pwd", "otp", "mfa"]
    assert (claims.acr, list(claims.scope)) == ("2fa", ["read"])

    weak = replicas.weak
    verdict = await replicas.demand_two_factors(weak.access_token)
    assert verdict.inactive_reason == pb.INACTIVE_REASON_INSUFFICIENT_USER_AUTHENTICATION
    assert verdict.unmet == ["acr_values"]
    stepped = await replicas.clients[0].auth.Login(
        pb.LoginRequest(session_refresh_token=weak.refresh_token), timeout=TIMEOUT
    )
    tokens_again = await replicas.answer(
        stepped.challenge, recovery_code=replicas.recovery_codes[0]
    )
    assert tokens_again.tokens.session_id == weak.session_id
    token = tokens_again.tokens.access_token
    assert (await replicas.demand_two_factors(token)).active
    refreshed = await replicas.clients[1].auth.Refresh(
        pb.RefreshRequest(refresh_token=weak.refresh_token), timeout=TIMEOUT
    )
    assert (await replicas.demand_two_factors(refreshed.tokens.access_token)).active

    listed = await replicas.call("ListFactors", account.ListFactorsRequest(), token)
    assert [(each.kind, each.name) for each in listed.factors] == [(pb.FACTOR_KIND_TOTP, "phone")]
    assert listed.recovery_codes_left == 9
    codes = await replicas.call(
        "GenerateRecoveryCodes", account.GenerateRecoveryCodesRequest(), token
    )
    assert len(codes.recovery_codes) == 10
    delete = account.DeleteFactorRequest(factor_id=listed.factors[0].factor_id)
    await replicas.call("DeleteFactor", delete, token)
    assert (await replicas.begin()).tokens.access_token


async def test_all_failures_of_a_credential_look_the_same(replicas: Replicas) -> None:
    """Unknown user, wrong password, disabled user and wrong code: the same bytes."""
    challenge = (await replicas.begin()).challenge
    wrong = replicas.app.code(utc_now() + 9 * STEP)
    seen = [
        await refusal(replicas.begin(user="nobody@example.com")),
        await refusal(replicas.begin(password="some other battery staple")),
        await refusal(replicas.answer(challenge, totp_code=wrong)),
        await refusal(replicas.answer(challenge, recovery_code="a" * 24)),
    ]
    await query(replicas.database_url, "UPDATE users SET disabled = true")
    seen.append(await refusal(replicas.begin()))
    seen.append(await refusal(replicas.answer(challenge, totp_code=await replicas.next_code())))
    first, *others = [(each.code, each.text, each.trailers) for each in seen]
    assert seen[0].reason == "INVALID_CREDENTIALS"
    assert all(each == first for each in others)


async def test_what_is_missing_or_too_much_is_named(replicas: Replicas) -> None:
    """With how to mend it."""
    factor, client = pb.FactorCredentials, pb.ClientCredentials(client_id="orders")
    cases: dict[str, dict[str, Any]] = {
        "factor.challenge_token": {"factor": factor(totp_code="123456")},
        "factor.proof": {"factor": factor(challenge_token="a.b.c")},
        "scope": {"session_refresh_token": "a.b.c", "scope": ["read"]},
        "audience": {"session_refresh_token": "a.b.c", "audience": ["internal"]},
        "session_refresh_token": {"session_refresh_token": "a.b.c", "client": client},
    }
    for field, given in cases.items():
        request = pb.LoginRequest(**given)
        refused = await refusal(replicas.clients[0].auth.Login(request, timeout=TIMEOUT))
        assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
