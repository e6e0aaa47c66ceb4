"""Passwords that an attacker tries first: lists of them, in eight bytes a password.

Owns what a list is made of and how it is asked. Knows no account.

`common_passwords.bin` has the entries of eight characters or more of zxcvbn's frequency lists:
leaked passwords, words of the English Wikipedia, of film and television, and names. It is made by
`python -m tests.common_passwords`. zxcvbn's lists: Copyright (c) 2012-2016 Dan Wheeler and
Dropbox, Inc., under the MIT License (see common_passwords.license).
"""

import bisect
import hashlib
import sys
import unicodedata
from array import array
from collections.abc import Iterable
from functools import cached_property
from importlib import resources
from pathlib import Path

__all__ = ["Blocklist", "fold", "pack"]

DIGEST_BYTES = 8
"""Of ten million entries, one password in two million million collides with one of them."""


def fold(text: str) -> str:
    """Return the form in which passwords are compared: without case, width and compositions."""
    return unicodedata.normalize("NFKC", text).casefold()


def pack(passwords: Iterable[str]) -> bytes:
    """Return a list as it is kept: the sorted digests of its entries, each little-endian."""
    digests = array("Q", sorted({_digest(fold(each)) for each in passwords}))
    if sys.byteorder == "big":
        digests.byteswap()
    return digests.tobytes()


class Blocklist:
    """The common passwords and, if a file is given, those of its lines (UTF-8).

    The lists are read at the first question, which therefore belongs in a thread: a file of a
    million lines takes seconds. They stay as they were then.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file

    def __contains__(self, password: str) -> bool:
        """Tell whether the whole password, in whatever case, is on one of the lists."""
        digest = _digest(fold(password))
        return any(_has(digests, digest) for digests in self._lists)

    @cached_property
    def _lists(self) -> "list[array[int]]":
        common = resources.files(__package__).joinpath("common_passwords.bin").read_bytes()
        lists = [_unpacked(common)]
        if self._file is not None:
            with self._file.open(encoding="utf-8", errors="surrogateescape") as lines:
                lists.append(_unpacked(pack(line.rstrip("\r\n") for line in lines)))
        return lists


def _digest(folded: str) -> int:
    data = folded.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest(), "little")


def _unpacked(data: bytes) -> "array[int]":
    digests = array("Q")
    digests.frombytes(data)
    if sys.byteorder == "big":
        digests.byteswap()
    return digests


def _has(digests: "array[int]", digest: int) -> bool:
    index = bisect.bisect_left(digests, digest)
    return index < len(digests) and digests[index] == digest
