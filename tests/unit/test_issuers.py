"""The file of issuers: what is read, what is refused, and what the error says."""

from datetime import timedelta
from pathlib import Path

import pytest

from auth_service.clock import utc_now
from auth_service.config.issuers import read_issuers
from auth_service.config.loading import Settings
from auth_service.errors import ConfigError
from auth_service.serving.workloads import workload_issuers
from tests.workloads import CLUSTER

GOOD = """
[[issuer]]
kind = "kubernetes"
issuer = "https://kubernetes.default.svc.cluster.local"
jwks_url = "https://kubernetes.default.svc/openid/v1/jwks"
max_lifetime = "2h"

[[issuer.account]]
subject = "system:serviceaccount:shop:orders"
client_id = "Orders"

[[issuer]]
kind = "spiffe"
trust_domain = "example.org"
workload_api = "/run/spire/agent.sock"
audience = "auth"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "issuers.toml"


def test_issuers_are_those_of_the_file(path: Path) -> None:
    """With the defaults of their kind; the audience is the issuer of this service."""
    path.write_text(GOOD)
    settings = Settings(workload_issuers_file=path, issuer="https://auth.test")
    (cluster, domain), _ = workload_issuers(settings, utc_now)
    assert (cluster.name, domain.name) == (CLUSTER, "spiffe://example.org")
    assert cluster.rules.audiences == frozenset(["https://auth.test"])
    assert (cluster.rules.max_lifetime, cluster.rules.max_age) == (
        timedelta(hours=2),
        timedelta(hours=24),
    )
    (mapping,) = cluster.mappings.values()
    assert (mapping.issuer, mapping.client_id) == (CLUSTER, "orders")
    assert domain.rules.audiences == frozenset(["auth"])
    assert not domain.certificates
    assert "EdDSA" not in domain.rules.algorithms
    (first, second) = read_issuers(path)
    assert (first.interval, second.interval) == (timedelta(minutes=5), timedelta(seconds=30))


def test_without_the_setting_there_is_none() -> None:
    """No workload is let in."""
    assert workload_issuers(Settings(), utc_now)[0] == []


JWKS = 'kind = "jwks"\nissuer = "https://ci.test"\n'
SPIFFE = 'kind = "spiffe"\ntrust_domain = "example.org"\n'
ACCOUNT = '[[issuer.account]]\nsubject = "system:serviceaccount:a:default"\nclient_id = "a"\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x", "is not TOML"),
        ('[[other]]\nname = "x"', "other"),
        ('[[issuer]]\nkind = "saml"', "issuer.1.kind"),
        ('[[issuer]]\nkind = "jwks"', "needs issuer"),
        (f"[[issuer]]\n{JWKS}", "needs one of jwks_file"),
        (f'[[issuer]]\n{JWKS}jwks_url = "http://ci.test/jwks"', "is not https"),
        (f'[[issuer]]\n{JWKS}jwks_url = "ftp://ci.test/jwks"', "is not an https URL"),
        (f'[[issuer]]\n{JWKS}jwks_url = "https://me@ci.test/"', "is not an https URL"),
        (f'[[issuer]]\n{JWKS}jwks_url = "https://[::1"', "is not a URL"),
        (f'[[issuer]]\n{JWKS}jwks_url = "https://a"\njwks_file = "/b"', "needs one of"),
        (f'[[issuer]]\n{JWKS}jwks_url = "https://a"\nmtls = true', "kind spiffe"),
        (f'[[issuer]]\n{JWKS}jwks_url = "https://a"\nmax_age = "soon"', "max_age"),
        (f'[[issuer]]\n{JWKS}jwks_file = "/a"\nca_file = "/b"', "go with jwks_url"),
        (
            f'[[issuer]]\n{JWKS}jwks_url = "http://127.0.0.1/a"\nbearer_token_file = "/b"',
            "over https only",
        ),
        (f'[[issuer]]\n{JWKS}trust_domain = "a"\njwks_url = "https://a"', "needs issuer"),
        (f'[[issuer]]\n{SPIFFE}issuer = "a"\njwks_url = "https://a"', "needs trust_domain"),
        ('[[issuer]]\nkind = "spiffe"\ntrust_domain = "A b"\njwks_file = "/a"', "trust_domain"),
        (f"[[issuer]]\n{SPIFFE}mtls = true", "AUTH_TLS_CLIENT_CA_FILE"),
        (f'[[issuer]]\n{JWKS}jwks_url = "https://a"\n' * 2, "twice"),
        (f'[[issuer]]\n{JWKS}jwks_url = "https://a"\n{ACCOUNT}{ACCOUNT}', "a subject twice"),
        (f'[[issuer]]\n{JWKS}jwks_url = "https://a"\n{ACCOUNT}', "allow_default_account"),
        (f'[[issuer]]\n{JWKS}jwks_file = "/nowhere/jwks.json"', "jwks_file of https://ci.test"),
    ],
    ids=range(22),
)
def test_a_wrong_file_is_refused_with_what_is_wrong(path: Path, text: str, told: str) -> None:
    """The error names the setting, the file and the key in it."""
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        workload_issuers(Settings(workload_issuers_file=path), utc_now)
    assert "AUTH_WORKLOAD_ISSUERS_FILE" in caught.value.text
    assert told in caught.value.text


def test_a_default_account_may_be_named(path: Path) -> None:
    """By the word for it."""
    path.write_text(
        f'[[issuer]]\n{JWKS}jwks_url = "https://a"\n{ACCOUNT}allow_default_account = true\n'
    )
    (issuer,), _ = workload_issuers(Settings(workload_issuers_file=path), utc_now)
    assert len(issuer.mappings) == 1


def test_a_missing_file_is_named(path: Path) -> None:
    """When the settings are read, before anything is started."""
    with pytest.raises(ConfigError, match="AUTH_WORKLOAD_ISSUERS_FILE"):
        Settings(workload_issuers_file=path).check_files()
