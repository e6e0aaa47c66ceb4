"""docs/verify-tokens.md uses the names that `auth_service.client` exports."""

import re
from pathlib import Path

from auth_service import client

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "verify-tokens.md").read_text()


def test_the_page_names_exported_classes_only() -> None:
    """Each class of ours in inline code, and each import of an example."""
    mentioned = set(re.findall(r"`([A-Z][A-Za-z]+)[`(]", PAGE)) - {"Validate", "Depends"}
    imported = re.findall(r"from auth_service\.client import (.+)", PAGE)
    assert {"LocalVerifier", "SessionTokens", "AuthError", "ConfigError", "Timing"} <= mentioned
    assert mentioned | set(", ".join(imported).split(", ")) <= set(client.__all__)
