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


ARENAS = """
import ctypes
import threading

from auth_service.serving.memory import share_arenas

share_arenas()
libc = ctypes.CDLL(None)
allocated = threading.Barrier(9)
counted = threading.Event()


def allocate():
    libc.malloc(2000)
    allocated.wait()
    counted.wait()


threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
allocated.wait()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
counted.set()
"""


def test_threads_share_two_arenas() -> None:
    """Without it, each of a few threads has an arena of its own."""
    command = [sys.executable, "-c", ARENAS]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.count("<heap nr=") == 2
