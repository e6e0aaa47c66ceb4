"""Runs every benchmark, or those named: `python -m benchmarks [--write] [NAME …]`."""

import importlib
import sys
import traceback

from benchmarks.figures import Verdict
from benchmarks.report import report

QUESTIONS = (
    "validate",
    "exchange",
    "refresh",
    "login",
    "login_refusals",
    "live_revocations",
    "table_size",
    "clean_up",
    "login_storm",
    "workers",
    "user_import",
    "start_and_memory",
    "rivals_compared",
    "local_verification",
    "mesh_latency",
    "revocation_latency",
    "watch_streams",
    "watch_storm",
)


def main(arguments: list[str]) -> None:
    """Run, then print the table of goals and write it down."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    write = "--write" in arguments
    names = [name for name in arguments if name != "--write"] or list(QUESTIONS)
    if unknown := set(names) - set(QUESTIONS):
        sys.exit(f"no benchmark {', '.join(unknown)}; there are: {', '.join(QUESTIONS)}")
    verdicts: dict[str, list[Verdict]] = {}
    failed = []
    for name in names:
        print(f"\n# {name}", flush=True)
        try:
            verdicts[name] = importlib.import_module(f"benchmarks.{name}").main() or []
        except Exception:  # noqa: BLE001 - the others are run all the same
            traceback.print_exc()
            failed.append(name)
            continue
        for verdict in verdicts[name]:
            print(verdict, flush=True)
    report(verdicts, write=write)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":  # the load generator's process imports this module again
    main(sys.argv[1:])
