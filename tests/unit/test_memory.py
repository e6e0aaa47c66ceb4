"""Memory that is returned to the operating system."""

import subprocess
import sys

MIB = 1024 * 1024

# In a process of its own: the heap of the test's process has free blocks from earlier tests.
PROGRAM = """
import asyncio
from pathlib import Path

from auth_service.serving.memory import release_memory


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


before = resident()
blocks = [bytes(2000) for _ in range(32 * 1024)]
del blocks[:-1]  # the last one keeps the end of the heap
kept = resident()
asyncio.run(release_memory())
print(kept - before, kept - resident())
"""


def test_free_memory_is_returned() -> None:
    """Without it, free memory between blocks in use stays with the process."""
    command = [sys.executable, "-c", PROGRAM]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    kept, returned = map(int, run.stdout.split())
    assert kept > 32 * MIB
    assert returned > 32 * MIB
