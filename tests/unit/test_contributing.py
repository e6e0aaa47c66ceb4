"""What CI, `make check` and the pre-commit hooks run is the same."""

import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
MAKEFILE = (PROJECT / "Makefile").read_text()


def prerequisites(target: str) -> set[str]:
    """Return the targets that a target of the Makefile depends on."""
    found = re.search(rf"^{target}:([^#\n]*)", MAKEFILE, re.MULTILINE)
    assert found, target
    return set(found[1].split())


def test_pre_commit_runs_every_target_of_make_check() -> None:
    """Each hook calls one target, so that no version of a tool is named twice."""
    hooks = (PROJECT / ".pre-commit-config.yaml").read_text()
    called = re.findall(r"^ +entry: make --no-print-directory (\w+)$", hooks, re.MULTILINE)
    assert len(called) == hooks.count("- id: ")
    assert set(called) == prerequisites("check")
    assert len(called) == len(set(called))


def test_ci_runs_make_check_and_the_tests() -> None:
    """`.ci/run` calls `make ci` and no other target."""
    script = (PROJECT / ".ci" / "run").read_text()
    assert re.findall(r"^make (.+)$", script, re.MULTILINE) == ["ci"]
    assert prerequisites("ci") >= {"check", "test", "interop"}
