"""Runs every benchmark, or those named: `python -m benchmarks [NAME …]`."""

import importlib
import sys

QUESTIONS = ("local_verification", "mesh_latency", "revocation_latency", "watch_streams")

for name in sys.argv[1:] or QUESTIONS:
    if name not in QUESTIONS:
        sys.exit(f"no benchmark {name!r}; there are: {', '.join(QUESTIONS)}")
    print(f"\n# {name}", flush=True)
    importlib.import_module(f"benchmarks.{name}").main()
