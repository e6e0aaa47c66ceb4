"""Memory that is returned to the operating system."""

from pathlib import Path

from auth_service.serving.memory import release_memory

MIB = 1024 * 1024


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


async def test_memory_that_is_free_is_returned() -> None:
    """What lies between blocks in use would else stay with the process."""
    before = resident()
    blocks = [bytes(2000) for _ in range(32 * 1024)]
    del blocks[:-1]  # the last one keeps the end of the heap
    kept = resident()
    assert kept > before + 32 * MIB
    await release_memory()
    assert resident() < kept - 32 * MIB
    assert blocks
