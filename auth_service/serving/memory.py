"""Returns memory that the process no longer uses to the operating system.

glibc keeps what a flood of calls has allocated and freed, in arenas of each thread, and returns
only the end of each. Does nothing with another C library.
"""

import asyncio
import ctypes
import os

__all__ = ["release_memory", "share_arenas"]

M_ARENA_MAX = -8  # mallopt(3)
ARENAS = 2


def share_arenas() -> None:
    """Let the threads started from now on share ARENAS arenas (mallopt(3)).

    What a flood leaves in use lies scattered over the arenas, and each keeps its pages. By default
    each of gRPC's threads has an arena of its own. A number set in the environment stays.
    """
    if "MALLOC_ARENA_MAX" in os.environ or "arena_max" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    _glibc("mallopt", M_ARENA_MAX, ARENAS)


async def release_memory() -> None:
    """Return free memory; a thread does so, because it takes some milliseconds (malloc_trim(3))."""
    await asyncio.to_thread(_glibc, "malloc_trim", 0)


def _glibc(name: str, *arguments: int) -> None:
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return
    function(*arguments)
