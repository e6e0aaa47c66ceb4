"""Returns memory that the process no longer uses to the operating system.

glibc keeps what a flood of calls has allocated and freed, in arenas of each thread, and returns
only the end of each. Does nothing with another C library.
"""

import asyncio
import ctypes
from collections.abc import Callable

__all__ = ["release_memory"]


def _malloc_trim() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return trim


_TRIM = _malloc_trim()


async def release_memory() -> None:
    """Return free memory; a thread does so, because it takes some milliseconds (malloc_trim(3))."""
    if _TRIM is not None:
        await asyncio.to_thread(_TRIM, 0)
