"""The files of deploy/ hold no secret, and the example of Kubernetes logs its services in."""

import math
import re
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from auth_service.config.issuers import read_issuers

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
MANIFESTS = [path for path in FILES if path.parent.name == "kubernetes"]

SECRETS = (
    r"-----BEGIN [A-Z ]*PRIVATE KEY",
    r"^\s*kind:\s*Secret\b",
    r"^\s*(?:stringData|client_secret|client-secret|secret|password)\s*[:=]\s*\S",
    r"\bAUTH_(?:MASTER|SHARED)_KEY\s*[:=]\s*['\"]?[\w+/-]{20}",
    r"\beyJ[\w-]{10,}",
    r"://[^/\s:@…]+:[^/\s@…$]+@",
)
"""What a secret looks like in a manifest, beside long random text."""


def secrets_in(text: str) -> list[str]:
    """Return the lines of a file that hold a secret."""
    return [
        line
        for line in text.splitlines()
        if any(re.search(each, line, re.IGNORECASE) for each in SECRETS)
        or any(_is_random(word) for word in re.findall(r"[A-Za-z0-9+_-]{32,}", line))
    ]


def _is_random(word: str) -> bool:
    """Tell whether a long word looks like the base64 of random bytes, by its entropy."""
    counts = Counter(word).values()
    bits = -sum(count / len(word) * math.log2(count / len(word)) for count in counts)
    mixed = re.search(r"[A-Z]", word) and re.search(r"[a-z]", word) and re.search(r"\d", word)
    return bool(mixed) and bits > 4


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_no_file_holds_a_secret(path: Path) -> None:
    """Secrets are named, and services log in by what their platform projects."""
    assert secrets_in(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "kind: Secret",
        "  password: hunter2",
        "    client_secret: abc",
        "AUTH_MASTER_KEY=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        "  value: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        "-----BEGIN PRIVATE KEY-----",
        "token: eyJhbGciOiJIUzI1NiJ9.e30.x",
        "value: postgresql://auth:hunter2@db/auth",
    ],
)
def test_a_secret_would_be_found(line: str) -> None:
    """Whatever its form."""
    assert secrets_in(line) == [line]


def test_services_on_kubernetes_log_in_by_their_projected_tokens(tmp_path: Path) -> None:
    """The issuers of the example are valid, and map the account that the example runs as."""
    service = (DEPLOY / "kubernetes" / "auth-service.yaml").read_text()
    block = re.search(r"^  issuers\.toml: \|\n((?:    .*\n|\n)+)", service, re.MULTILINE)
    assert block
    path = tmp_path / "issuers.toml"
    # The files that it names are in the pod.
    content = re.sub(
        r"^(?:ca|bearer_token)_file = .*$", "", textwrap.dedent(block[1]), flags=re.MULTILINE
    )
    path.write_text(content)
    (issuer,) = read_issuers(path)
    (account,) = issuer.account
    _, _, namespace, name = account.subject.split(":")
    orders = (DEPLOY / "kubernetes" / "orders.yaml").read_text()
    assert f"serviceAccountName: {name}\n" in orders
    assert f"  namespace: {namespace}\n" in orders
    value = re.search(r"name: AUTH_ISSUER\n\s+value: (\S+)", service)
    assert value
    assert f"audience: {value[1]}\n" in orders
    assert "secretKeyRef" not in orders
