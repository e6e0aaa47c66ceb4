"""Makes auth_service/core/common_passwords.bin: `python -m tests.common_passwords`."""

from pathlib import Path

from zxcvbn.frequency_lists import FREQUENCY_LISTS

from auth_service.core import blocklist
from auth_service.core.password_policy import SHORTEST

FILE = Path(blocklist.__file__).with_name("common_passwords.bin")


def words() -> set[str]:
    """Return the entries of zxcvbn's lists that are long enough to be a password."""
    return {
        word for entries in FREQUENCY_LISTS.values() for word in entries if len(word) >= SHORTEST
    }


if __name__ == "__main__":
    FILE.write_bytes(blocklist.pack(words()))
