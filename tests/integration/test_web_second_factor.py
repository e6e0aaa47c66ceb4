"""Second factors of browser sessions: a challenge in JSON, its answer, and a session stepped up."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from authn.v1 import account_service_pb2 as account
from authn.v1.account_service_pb2_grpc import AccountServiceStub

from auth_service.clock import utc_now
from auth_service.web.cookies import REFRESH_COOKIE
from tests.acceptance.servers import PASSWORD, USER, make_user
from tests.integration.authenticator import App
from tests.integration.http_edge import TIMEOUT, Edge, assert_error, serving
from tests.integration.passkey import Passkey
from tests.integration.serving import query
from tests.integration.test_web_browser import set_cookies

GOOD = {"identifier": USER, "password": PASSWORD}


class Browser:
    """A page of the server's own origin, and the user's authenticator app."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.app = App("")
        self.cookie = ""

    async def post(self, path: str, token: str = "", **members: Any) -> httpx.Response:
        """Post JSON with the cookie and perhaps an access token, and keep what is set."""
        bearer = {"authorization": f"Bearer {token}"} if token else {}
        headers = bearer | {
            "origin": str(self.edge.http.base_url).rstrip("/"),
            "x-requested-with": "fetch",
            "cookie": f"{REFRESH_COOKIE}={self.cookie}",
        }
        answer = await self.edge.http.post(path, json=members, headers=headers)
        self.cookie = set_cookies(answer).get(REFRESH_COOKIE, (self.cookie, {}))[0]
        return answer

    async def enroll(self) -> None:
        """Enroll the app with the access token of a login."""
        token = (await self.post("/v1/login", **GOOD)).json()["access_token"]
        metadata = (("authorization", f"Bearer {token}"),)
        stub = AccountServiceStub(self.edge.rpc.channel)
        begun = await stub.BeginTotpEnrollment(
            account.BeginTotpEnrollmentRequest(), metadata=metadata, timeout=TIMEOUT
        )
        self.app = App(begun.enrollment.secret)
        confirm = account.ConfirmTotpEnrollmentRequest(
            enrollment_token=begun.enrollment_token, totp_code=self.app.code(utc_now())
        )
        await stub.ConfirmTotpEnrollment(confirm, metadata=metadata, timeout=TIMEOUT)

    async def code(self) -> str:
        """Return a code, as if none had been used."""
        await query(self.edge.database_url, "UPDATE user_factors SET counter = 0")
        return self.app.code(utc_now())


@pytest.fixture
async def browser(database_url: str) -> AsyncIterator[Browser]:
    """A browser at a server."""
    await make_user(database_url, roles=("staff",))
    async with serving(database_url) as edge:
        browser = Browser(edge)
        await browser.enroll()
        yield browser


async def test_a_login_in_two_steps(browser: Browser) -> None:
    """Only the second one sets the cookie; a wrong code looks like a wrong password."""
    browser.cookie = ""
    answer = await browser.post("/v1/login", **GOOD, scope=["read"])
    challenge = answer.json()
    assert (answer.status_code, browser.cookie) == (200, "")
    assert challenge.keys() == {"challenge_token", "factors", "expires_in"}
    assert challenge["factors"] == ["recovery_code", "totp"]
    given = {"challenge_token": challenge["challenge_token"]}
    wrong = await browser.post("/v1/login", **given, recovery_code="a" * 24)
    assert_error(wrong, 401, "invalid_credentials", "INVALID_CREDENTIALS")
    as_password = await browser.post("/v1/login", **GOOD | {"password": "not the password at all"})
    assert wrong.content == as_password.content
    tokens = (await browser.post("/v1/login", **given, totp_code=await browser.code())).json()
    assert tokens["scope"] == "read"
    assert browser.cookie
    claims = await browser.edge.http.get(
        "/v1/session", headers={"authorization": f"Bearer {tokens['access_token']}"}
    )
    assert (claims.json()["amr"], claims.json()["acr"]) == (["pwd", "otp", "mfa"], "2fa")


@pytest.mark.parametrize("members", [{}, GOOD], ids=["factor-alone", "with-password"])
async def test_a_session_is_stepped_up_by_its_cookie(
    browser: Browser, members: dict[str, str]
) -> None:
    """It goes on with its id and its cookie."""
    before = (await browser.post("/v1/refresh")).json()
    cookie = browser.cookie
    challenge = (await browser.post("/v1/step-up", **members)).json()
    answer = await browser.post(
        "/v1/login", challenge_token=challenge["challenge_token"], totp_code=await browser.code()
    )
    after = answer.json()
    assert (after["session_id"], browser.cookie) == (before["session_id"], cookie)
    verdict = await browser.edge.rpc.validate(after["access_token"])
    assert verdict.claims.acr == "2fa"
    assert (await browser.post("/v1/refresh")).status_code == 200


async def test_a_passkey_is_added_and_logs_in(database_url: str) -> None:
    """In JSON as browsers have it: as second factor, and alone."""
    await make_user(database_url)
    async with serving(database_url) as edge:
        browser, key = Browser(edge), Passkey("https://auth.internal")
        token = (await browser.post("/v1/login", **GOOD)).json()["access_token"]
        begun = (await browser.post("/v1/passkeys/begin", token)).json()
        assert begun.keys() == {"enrollment_token", "passkey_options", "expires_in"}
        given = {
            "enrollment_token": begun["enrollment_token"],
            "passkey_response": key.create(json.dumps(begun["passkey_options"])),
        }
        for name in given:
            refused = await browser.post("/v1/passkeys", token, **given | {name: ""})
            assert name in assert_error(refused, 400, "invalid_request", "INVALID_ARGUMENT")
        added = (await browser.post("/v1/passkeys", token, **given, name="laptop")).json()
        assert (added.keys(), len(added["recovery_codes"])) == (
            {"factor_id", "recovery_codes"},
            10,
        )
        second = (await browser.post("/v1/login", **GOOD)).json()
        assert second["factors"] == ["recovery_code", "passkey"]
        for challenge in (second, (await browser.post("/v1/passkeys/login")).json()):
            answer = await browser.post(
                "/v1/login",
                challenge_token=challenge["challenge_token"],
                passkey_response=key.get(json.dumps(challenge["passkey_options"])),
            )
            verdict = await edge.rpc.validate(answer.json()["access_token"])
            assert (verdict.claims.acr, verdict.claims.client_id) == ("phr", "browser")
        # The login was by password alone.
        refused = await browser.post("/v1/passkeys/begin", token)
        assert_error(
            refused, 401, "insufficient_user_authentication", "INSUFFICIENT_USER_AUTHENTICATION"
        )
        assert 'acr_values="2fa phr"' in refused.headers["www-authenticate"]


async def test_without_a_domain_there_are_no_passkeys(database_url: str) -> None:
    """And the answer says which setting is missing."""
    await make_user(database_url)
    async with serving(database_url, issuer="internal") as edge:
        browser = Browser(edge)
        token = (await browser.post("/v1/login", **GOOD)).json()["access_token"]
        for answer in (
            await browser.post("/v1/passkeys/begin", token),
            await browser.post("/v1/passkeys/login"),
        ):
            text = assert_error(answer, 404, "not_found", "NOT_FOUND")
            assert "AUTH_PASSKEY_RP_ID" in text


async def test_what_is_missing_or_too_much_is_named(browser: Browser) -> None:
    """And without a cookie there is nothing to step up."""
    for members, named in (
        ({"challenge_token": "a.b.c"}, "totp_code"),
        ({"challenge_token": "a.b.c", "totp_code": "123456", "recovery_code": "x"}, "totp_code"),
        ({"challenge_token": "a.b.c", "totp_code": "123456", "scope": ["read"]}, "scope"),
        ({**GOOD, "totp_code": "123456"}, "totp_code"),
    ):
        answer = await browser.post("/v1/login", **members)
        assert named in assert_error(answer, 400, "invalid_request", "INVALID_ARGUMENT")
    browser.cookie = ""
    answer = await browser.post("/v1/step-up")
    assert_error(answer, 401, "invalid_grant", "INVALID_GRANT")


async def test_a_demanded_factor_is_enrolled_at_the_login(database_url: str) -> None:
    """The challenge has the secret, and the first code completes the login."""
    await make_user(database_url, roles=("staff",))
    async with serving(database_url, second_factor_roles=("staff",)) as edge:
        browser = Browser(edge)
        challenge = (await browser.post("/v1/login", **GOOD)).json()
        assert challenge["factors"] == []
        assert challenge["enrollment"]["uri"].startswith("otpauth://totp/auth.internal:")
        code = App(challenge["enrollment"]["secret"]).code(utc_now())
        answer = await browser.post(
            "/v1/login", challenge_token=challenge["challenge_token"], totp_code=code
        )
        assert (await edge.rpc.validate(answer.json()["access_token"])).claims.acr == "2fa"
