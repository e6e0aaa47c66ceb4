"""Login without a secret: tokens of platforms, own keys, and what is refused, all alike."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from structlog.testing import capture_logs

from auth_service.core.workloads import IssuerKind
from auth_service.db.store import Store
from auth_service.errors import (
    AlreadyExists,
    InvalidArgument,
    InvalidCredentials,
    InvalidScope,
    InvalidTarget,
    NotFound,
    Unavailable,
)
from auth_service.tokens.foreign import MAX_LENGTH, Refusal, RefusalReason
from auth_service.tokens.foreign_keys import TrustedKeys
from tests.audiences import register
from tests.clock import FakeClock
from tests.integration.core import ISSUER, Core, make_core
from tests.workloads import (
    BILLING,
    CI,
    CLUSTER,
    FAULTS,
    TRUST_DOMAIN,
    Key,
    Platform,
    base64url,
    jwks,
)

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
TOKENS = int(os.environ.get("WORKLOAD_TOKENS", "10000"))
"""Wrong tokens that are presented; 10,000 take some seconds."""
SEED = int(os.environ.get("WORKLOAD_SEED", "20261126"))

PLATFORMS = {kind: Platform.new(kind) for kind in IssuerKind}
KUBERNETES, SPIFFE, JWKS = (PLATFORMS[kind] for kind in IssuerKind)


@pytest.fixture
async def core(store: Store, clock: FakeClock) -> AsyncIterator[Core]:
    """Three platforms, and the account `billing` without a secret."""
    core = make_core(store, clock, issuers=[p.issuer(clock.now) for p in PLATFORMS.values()])
    made = await core.accounts.services.create(BILLING, scope=["read"], secret=False)
    assert made == ""
    clock.advance(SECOND)
    yield core
    await core.shielded.drain()
    core.hasher.close()


async def login(core: Core, token: str, **options: Any) -> str:
    """Return an access token for a workload's."""
    return (await core.sessions.login_workload(token, **options)).access_token


async def refused(core: Core, token: str, **options: Any) -> RefusalReason:
    """Return why a token is refused, which only the service knows."""
    with pytest.raises(InvalidCredentials) as caught:
        await login(core, token, **options)
    assert caught.value.text == InvalidCredentials().text
    cause = caught.value.__cause__
    assert isinstance(cause, Refusal)
    assert not token or token not in str(cause)
    return cause.reason


class TestPlatforms:
    @pytest.mark.parametrize("platform", PLATFORMS.values(), ids=PLATFORMS)
    async def test_each_key_of_a_platform_logs_its_workload_in(
        self, core: Core, clock: FakeClock, platform: Platform
    ) -> None:
        """The access token is that of a login with a secret: only the proof differs."""
        for key in range(len(platform.keys)):
            claims = core.claims(await login(core, platform.token(clock.now, key)))
            assert (claims.subject, claims.client_id) == (BILLING, BILLING)
            assert (claims.scope, claims.session_id, claims.amr) == (("read",), "", ())
            assert claims.acr == ""

    async def test_a_token_serves_until_it_expires(self, core: Core, clock: FakeClock) -> None:
        """A platform's token is in a file, and is presented at each login."""
        token = KUBERNETES.token(clock.now)
        assert await login(core, token) != await login(core, token)
        clock.advance(59 * MINUTE)
        assert await refused(core, token) is RefusalReason.EXPIRED

    async def test_scope_and_audience_are_those_of_the_account(
        self, core: Core, clock: FakeClock, store: Store
    ) -> None:
        """They go through the same checks as at any login."""
        token = KUBERNETES.token(clock.now)
        await register(store, "orders", open_=False)
        with pytest.raises(InvalidScope):
            await login(core, token, scope=["write"])
        for audience in ("orders", "unknown"):
            with pytest.raises(InvalidTarget):
                await login(core, token, audience=[audience])

    async def test_the_log_says_the_way_and_never_the_token(
        self, core: Core, clock: FakeClock
    ) -> None:
        """Of a refusal it says the reason, on the level debug."""
        good, bad = KUBERNETES.token(clock.now), KUBERNETES.token(clock.now, sub="system:x")
        with capture_logs() as logs:
            await login(core, good)
            await refused(core, bad)
        entered, left_out = [each for each in logs if each["event"].startswith("workload_")]
        assert entered["event"] == "workload_login"
        assert (entered["way"], entered["client_id"]) == ("kubernetes", BILLING)
        assert entered["subject"] == KUBERNETES.subject
        assert (left_out["log_level"], left_out["reason"]) == ("debug", "wrong_subject")
        assert all(part not in str(logs) for token in (good, bad) for part in token.split("."))

    async def test_a_client_id_has_to_be_the_one_that_is_mapped(
        self, core: Core, clock: FakeClock
    ) -> None:
        """It cannot choose another account."""
        token = KUBERNETES.token(clock.now)
        await core.accounts.services.create("orders")
        assert core.active(await login(core, token, client_id=" Billing "))
        assert await refused(core, token, client_id="orders") is RefusalReason.WRONG_CLIENT

    async def test_a_disabled_or_deleted_account_is_closed(
        self, core: Core, clock: FakeClock
    ) -> None:
        """Whatever its platform says."""
        token = KUBERNETES.token(clock.now)
        access = await login(core, token)
        await core.accounts.services.set_disabled(BILLING, True)
        assert await refused(core, token) is RefusalReason.DISABLED
        assert not core.active(access)
        await core.accounts.services.delete(BILLING)
        assert await refused(core, token) is RefusalReason.NO_ACCOUNT

    @pytest.mark.parametrize(
        "bound",
        [
            None,
            "shop",
            {},
            {"namespace": "shop"},
            {"namespace": "shop", "serviceaccount": "billing"},
            {"namespace": "shop", "serviceaccount": {"name": "orders"}},
            {"namespace": "other", "serviceaccount": {"name": "billing"}},
        ],
    )
    async def test_a_cluster_has_to_say_the_same_twice(
        self, core: Core, clock: FakeClock, bound: Any
    ) -> None:
        """`sub` and `kubernetes.io` name one service account."""
        token = KUBERNETES.token(clock.now, **{"kubernetes.io": bound})
        assert await refused(core, token) is RefusalReason.WRONG_SUBJECT

    async def test_the_subject_of_a_trust_domain_is_a_spiffe_id(
        self, core: Core, clock: FakeClock
    ) -> None:
        """`iss` does not make one of what is none."""
        for subject in ("billing", TRUST_DOMAIN, f"{TRUST_DOMAIN}/a/../b", f"{TRUST_DOMAIN}/a/"):
            token = SPIFFE.token(clock.now, sub=subject, iss=TRUST_DOMAIN)
            assert await refused(core, token) is RefusalReason.WRONG_SUBJECT

    async def test_no_platform_vouches_for_the_workloads_of_another(
        self, core: Core, clock: FakeClock
    ) -> None:
        """The keys are those of the issuer that the claims name."""
        for signer in PLATFORMS.values():
            for victim in PLATFORMS.values():
                if signer is not victim:
                    token = signer.keys[0].sign(victim.claims(clock.now))
                    assert await refused(core, token) is RefusalReason.UNKNOWN_KEY

    async def test_without_keys_the_answer_is_to_try_again(
        self, store: Store, clock: FakeClock
    ) -> None:
        """The credential may be right: it is this service that cannot tell."""
        issuer = replace(KUBERNETES.issuer(clock.now), keys=TrustedKeys())
        core = make_core(store, clock, issuers=[issuer])
        with pytest.raises(Unavailable):
            await login(core, KUBERNETES.token(clock.now))
        core.hasher.close()

    @pytest.mark.parametrize(
        "token",
        ["", "x", "a.b.c", "a.b", "....", "é.b.c", "\0.b.c", "x" * (MAX_LENGTH + 1)],
        ids=range(8),
    )
    async def test_what_is_no_token_is_refused(self, core: Core, token: str) -> None:
        """Nothing at all is a certificate that is not there."""
        expected = RefusalReason.MALFORMED if token else RefusalReason.NO_CERTIFICATE
        assert await refused(core, token) is expected

    async def test_a_claim_that_stands_there_twice_is_refused(
        self, core: Core, clock: FakeClock
    ) -> None:
        """Parsers differ in which of the two they take."""
        key, claims = JWKS.keys[0], json.dumps(JWKS.claims(clock.now))
        doubled = f'{{"sub":"{JWKS.subject}",{claims[1:]}'
        header = key.sign({}).partition(".")[0]
        token = key.seal(f"{header}.{base64url(doubled.encode())}")
        assert await refused(core, token) is RefusalReason.MALFORMED

    async def test_wrong_tokens_are_refused_each_for_its_own_reason(
        self, core: Core, clock: FakeClock
    ) -> None:
        """Each is wrong in one respect, and right ones among them are accepted."""
        random, accepted, seen = Random(SEED), 0, dict.fromkeys(FAULTS, 0)
        for number in range(TOKENS):
            platform = random.choice(list(PLATFORMS.values()))
            key, fault = random.choice(platform.keys), FAULTS[number % len(FAULTS)]
            token, expected = fault(platform, key, clock.now, random)
            reason = await refused(core, token)
            assert reason in expected, (fault.__name__, reason)
            seen[fault] += 1
            if number % 50 == 0:
                right = platform.token(clock.now, platform.keys.index(key))
                accepted += core.active(await login(core, right))
        assert accepted == -(-TOKENS // 50)
        assert min(seen.values()) >= TOKENS // len(FAULTS)


class TestMappings:
    async def test_a_mapping_of_the_database_opens_an_account(
        self, core: Core, clock: FakeClock, pool: Any
    ) -> None:
        """Until it is deleted; each act leaves a row in the audit log."""
        registry, subject = core.accounts.workloads, "repo:acme/orders:ref:refs/heads/main"
        token = JWKS.token(clock.now, sub=subject, repository="acme/orders")
        assert await refused(core, token) is RefusalReason.NOT_MAPPED
        made = await registry.map(CI, subject, " BILLING", claims={"repository": "acme/orders"})
        assert core.active(await login(core, token))
        assert await registry.mappings() == [made]
        other = JWKS.token(clock.now, sub=subject, repository="acme/evil")
        assert await refused(core, other) is RefusalReason.WRONG_CLAIM
        without = JWKS.token(clock.now, sub=subject, repository=None)
        assert await refused(core, without) is RefusalReason.WRONG_CLAIM
        clock.advance(SECOND)
        await registry.unmap(CI, subject)
        assert await refused(core, token) is RefusalReason.NOT_MAPPED
        rows = await pool.fetch(
            "SELECT event, client_id, issuer, subject FROM audit_log "
            "WHERE event LIKE 'workload.%' ORDER BY at"
        )
        assert [tuple(row) for row in rows] == [
            ("workload.mapped", BILLING, CI, subject),
            ("workload.unmapped", BILLING, CI, subject),
        ]

    async def test_a_subject_is_mapped_once_and_to_an_account(self, core: Core) -> None:
        """Another mapping has to be deleted first."""
        registry = core.accounts.workloads
        await registry.map(CI, "a", BILLING)
        with pytest.raises(AlreadyExists):
            await registry.map(CI, "a", BILLING)
        with pytest.raises(NotFound):
            await registry.map(CI, "b", "nobody")
        with pytest.raises(NotFound):
            await registry.unmap(CI, "b")
        await core.accounts.services.delete(BILLING)
        assert await registry.mappings() == []

    async def test_the_default_account_of_a_namespace_has_to_be_named_as_such(
        self, core: Core, clock: FakeClock
    ) -> None:
        """Every pod without an account of its own runs as it."""
        registry, subject = core.accounts.workloads, "system:serviceaccount:shop:default"
        with pytest.raises(InvalidArgument, match="default account"):
            await registry.map(CLUSTER, subject, BILLING)
        await registry.map(CLUSTER, subject, BILLING, allow_default_account=True)
        bound = {"namespace": "shop", "serviceaccount": {"name": "default"}}
        claims: dict[str, Any] = {"sub": subject, "kubernetes.io": bound}
        token = KUBERNETES.token(clock.now, **claims)
        assert core.active(await login(core, token))

    async def test_mappings_are_listed_in_pages(self, core: Core) -> None:
        """By issuer and subject."""
        registry = core.accounts.workloads
        names = sorted((f"https://{i}.test", f"s{s}") for i in range(2) for s in range(3))
        for issuer, subject in names:
            await registry.map(issuer, subject, BILLING)
        found: list[tuple[str, str]] = []
        while page := await registry.mappings(4, found[-1] if found else None):
            found += [(each.issuer, each.subject) for each in page]
        assert found == names

    @pytest.mark.parametrize(
        ("issuer", "subject", "claims"),
        [
            ("", "a", {}),
            ("x" * 513, "a", {}),
            (CI, "", {}),
            (CI, "ä" * 513, {}),
            (CI, "a\n", {}),
            (CI, "a\0", {}),
            (CI, "\ud800", {}),
            (CI, "a", {"": "x"}),
            (CI, "a", {"x": ""}),
            (CI, "a", {str(number): "x" for number in range(9)}),
        ],
        ids=range(10),
    )
    async def test_a_malformed_mapping_is_an_invalid_argument(
        self, core: Core, issuer: str, subject: str, claims: dict[str, str]
    ) -> None:
        """The error names the field."""
        with pytest.raises(InvalidArgument):
            await core.accounts.workloads.map(issuer, subject, BILLING, claims=claims)


OWN = Key("own", "ES256", ec.generate_private_key(ec.SECP256R1()))


def assertion(clock: FakeClock, key: Key = OWN, **changes: Any) -> str:
    """Return an assertion of `billing`, with some claims changed; None leaves a claim out."""
    now = int(clock.now.timestamp())
    claims = {"iss": BILLING, "sub": BILLING, "aud": ISSUER, "iat": now, "exp": now + 60}
    claims |= {"jti": uuid4().hex} | changes
    return key.sign({name: value for name, value in claims.items() if value is not None})


class TestOwnKeys:
    @pytest.fixture(autouse=True)
    async def _registered(self, core: Core) -> None:
        await core.accounts.workloads.add_key(BILLING, json.dumps(OWN.jwk()))

    async def test_an_assertion_opens_the_account_once(self, core: Core, clock: FakeClock) -> None:
        """Its `jti` is used up, also by other replicas."""
        token = assertion(clock)
        assert core.active(await login(core, token))
        assert await refused(core, token) is RefusalReason.REPLAYED

    async def test_of_many_at_once_one_gets_in(self, core: Core, clock: FakeClock) -> None:
        """Whichever connection of the database it uses."""
        token = assertion(clock)
        answers = await asyncio.gather(
            *(login(core, token) for _ in range(8)), return_exceptions=True
        )
        assert sum(isinstance(each, InvalidCredentials) for each in answers) == 7

    async def test_another_service_may_use_the_same_id(self, core: Core, clock: FakeClock) -> None:
        """An id is one of the client that made it."""
        await core.accounts.services.create("orders", secret=False)
        await core.accounts.workloads.add_key("orders", json.dumps(OWN.jwk()))
        for name in (BILLING, "orders"):
            token = assertion(clock, iss=name, sub=name, jti="one")
            assert core.claims(await login(core, token)).subject == name

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"jti": None}, RefusalReason.MALFORMED),
            ({"jti": ""}, RefusalReason.MALFORMED),
            ({"jti": "x" * 257}, RefusalReason.MALFORMED),
            ({"jti": 1}, RefusalReason.MALFORMED),
            ({"sub": "orders"}, RefusalReason.UNKNOWN_ISSUER),
            ({"iss": "orders"}, RefusalReason.UNKNOWN_ISSUER),
            ({"iss": "orders", "sub": "orders"}, RefusalReason.UNKNOWN_KEY),
            ({"iss": "Billing", "sub": "Billing"}, RefusalReason.WRONG_SUBJECT),
            ({"iss": " ", "sub": " "}, RefusalReason.WRONG_SUBJECT),
            ({"aud": "https://other.test"}, RefusalReason.WRONG_AUDIENCE),
            ({"aud": [ISSUER, "https://other.test"]}, RefusalReason.WRONG_AUDIENCE),
            ({"exp": None}, RefusalReason.MALFORMED),
            ({"exp": 0}, RefusalReason.EXPIRED),
        ],
        ids=range(13),
    )
    async def test_a_wrong_assertion_is_refused(
        self, core: Core, clock: FakeClock, changes: dict[str, Any], reason: RefusalReason
    ) -> None:
        """RFC 7523 section 3."""
        assert await refused(core, assertion(clock, **changes)) is reason

    async def test_its_lifetime_is_bounded_with_or_without_a_date(
        self, core: Core, clock: FakeClock
    ) -> None:
        """`iat` is optional (RFC 7523 section 3)."""
        late = int(clock.now.timestamp()) + 601
        for issued_at in (None, int(clock.now.timestamp())):
            token = assertion(clock, iat=issued_at, exp=late)
            assert await refused(core, token) is RefusalReason.TOO_LONG_LIVED
        assert core.active(await login(core, assertion(clock, iat=None)))

    async def test_a_deleted_or_expired_key_opens_nothing(
        self, core: Core, clock: FakeClock, pool: Any
    ) -> None:
        """And is not listed for long; each act leaves a row in the audit log."""
        registry = core.accounts.workloads
        clock.advance(SECOND)
        brief = Key("brief", "EdDSA", ed25519.Ed25519PrivateKey.generate())
        await registry.add_key(BILLING, json.dumps(brief.jwk()), clock.now + MINUTE)
        assert core.active(await login(core, assertion(clock, brief)))
        clock.advance(MINUTE)
        assert await refused(core, assertion(clock, brief)) is RefusalReason.UNKNOWN_KEY
        assert [each.live for each in await registry.keys(BILLING)] == [True, False]
        await registry.delete_key(BILLING, "own")
        assert await refused(core, assertion(clock)) is RefusalReason.UNKNOWN_KEY
        with pytest.raises(NotFound):
            await registry.delete_key(BILLING, "own")
        rows = await pool.fetch(
            "SELECT event, kid FROM audit_log WHERE event LIKE '%.key_%' ORDER BY at"
        )
        assert [tuple(row) for row in rows] == [
            ("service_account.key_added", "own"),
            ("service_account.key_added", "brief"),
            ("service_account.key_deleted", "own"),
        ]

    async def test_a_key_in_pem_gets_its_thumbprint(self, core: Core, clock: FakeClock) -> None:
        """RFC 7638; the service computes the same."""
        private = ec.generate_private_key(ec.SECP384R1())
        pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        made = await core.accounts.workloads.add_key(BILLING, pem.decode())
        assert len(made.kid) == 43
        token = assertion(clock, Key(made.kid, "ES384", private))
        assert core.active(await login(core, token))

    @pytest.mark.parametrize(
        "given",
        [
            "",
            "{}",
            "[]",
            "x",
            json.dumps(OWN.jwk(x5c="x" * 8192)),
            json.dumps({"kty": "oct", "k": "AAAA"}),
            jwks(OWN.jwk()),
            json.dumps(OWN.jwk(use="enc")),
            json.dumps(OWN.jwk(alg="HS256")),
            json.dumps(OWN.jwk(d="AAAA")),
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            OWN.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        ],
        ids=range(12),
    )
    async def test_what_is_no_public_key_is_refused(self, core: Core, given: str) -> None:
        """The error does not quote it, because it may be a private key."""
        with pytest.raises(InvalidArgument) as caught:
            await core.accounts.workloads.add_key(BILLING, given)
        assert caught.value.violations[0].field == "public_key"
        assert len(given) < 60 or given[28:60] not in caught.value.text

    async def test_the_keys_of_an_account_are_bounded(self, core: Core, clock: FakeClock) -> None:
        """And an expiry lies ahead, and a kid is used once."""
        registry = core.accounts.workloads
        with pytest.raises(AlreadyExists):
            await registry.add_key(BILLING, json.dumps(OWN.jwk()))
        with pytest.raises(InvalidArgument, match="expires_at"):
            await registry.add_key(BILLING, json.dumps(OWN.jwk(kid="late")), clock.now)
        for number in range(7):
            await registry.add_key(BILLING, json.dumps(OWN.jwk(kid=str(number))))
        with pytest.raises(InvalidArgument, match="delete one"):
            await registry.add_key(BILLING, json.dumps(OWN.jwk(kid="ninth")))
        with pytest.raises(NotFound):
            await registry.add_key("nobody", json.dumps(OWN.jwk()))
        with pytest.raises(NotFound):
            await registry.keys("nobody")

    async def test_used_ids_are_pruned_once_their_assertions_have_expired(
        self, core: Core, clock: FakeClock, pool: Any
    ) -> None:
        """Not before, whatever the margin of clocks."""
        await login(core, assertion(clock))
        kept = "SELECT count(*) FROM assertion_ids"
        clock.advance(MINUTE + 59 * SECOND)
        await core.store.prune(clock.now)
        assert await pool.fetchval(kept) == 1
        clock.advance(SECOND)
        await core.store.prune(clock.now)
        assert await pool.fetchval(kept) == 0


class TestCertificates:
    async def test_an_x509_svid_logs_in_where_the_trust_domain_allows_it(
        self, store: Store, clock: FakeClock
    ) -> None:
        """By its one URI, which is mapped as in a JWT-SVID."""
        issuer = replace(SPIFFE.issuer(clock.now), certificates=True)
        core = make_core(store, clock, issuers=[issuer])
        await core.accounts.services.create(BILLING, secret=False)
        assert core.active(await login(core, "", uris=[SPIFFE.subject]))
        for uris in ([SPIFFE.subject, SPIFFE.subject], [SPIFFE.subject, "https://x"]):
            assert await refused(core, "", uris=uris) is RefusalReason.NO_CERTIFICATE
        wrong = [f"{SPIFFE.subject}x"]
        assert await refused(core, "", uris=wrong) is RefusalReason.NOT_MAPPED
        for uri in ("https://example.org/billing", "spiffe://other.test/billing", ""):
            assert await refused(core, "", uris=[uri]) is RefusalReason.UNKNOWN_ISSUER
        core.hasher.close()

    async def test_elsewhere_it_does_not(self, core: Core) -> None:
        """`mtls` of the issuer is off unless it is set."""
        seen = await refused(core, "", uris=[SPIFFE.subject])
        assert seen is RefusalReason.UNKNOWN_ISSUER
