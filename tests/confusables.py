"""Makes auth_service/db/confusables.txt: `python -m tests.confusables < confusables.txt`.

The input is https://www.unicode.org/Public/17.0.0/security/confusables.txt.
"""

import sys
from pathlib import Path

from auth_service.db import confusables

FILE = Path(confusables.__file__).with_name("confusables.txt")


def lines(source: str) -> list[str]:
    """Return a line for each character beyond ASCII: it, and what it looks like."""
    found = [line.split(";") for line in source.splitlines() if ";" in line and line[0] != "#"]
    pairs = [(code.strip(), prototype.strip()) for code, prototype, *_ in found]
    return [
        f"{code};{to}"
        for code, to in sorted(pairs, key=lambda p: int(p[0], 16))
        if code > "007F" or len(code) > 4
    ]


if __name__ == "__main__":
    heading = [line for line in FILE.read_text("utf-8").splitlines() if line.startswith("#")]
    FILE.write_text("\n".join((*heading, *lines(sys.stdin.read()))) + "\n", "utf-8")
