"""Which passwords people may choose (NIST SP 800-63B-4 section 3.1.1.2).

Owns the rules and what their errors say. A length and a blocklist are all: there are no rules of
composition, and nothing expires. The rules apply to new passwords only; everybody can log in with
an old one.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from auth_service.core.blocklist import Blocklist, fold
from auth_service.errors import InvalidArgument, WeakPassword

__all__ = ["MAX_PASSWORD_BYTES", "SHORTEST", "PasswordPolicy", "normalise_password"]

MAX_PASSWORD_BYTES = 1024
SHORTEST = 8
"""No password is shorter, and no password has fewer characters that are its own."""

_SHORTEST_WORD = 4  # of the account or the service; shorter ones are in every sentence


@dataclass(frozen=True, slots=True)
class PasswordPolicy:
    """The rules. Lengths are in characters (code points) of the NFC form."""

    min_length: int = 15
    min_length_with_factor: int = SHORTEST
    """For an account that also asks for a second factor."""
    blocklist: Blocklist = field(default_factory=Blocklist)
    service_names: tuple[str, ...] = ()

    def check(
        self,
        password: str,
        identifiers: Sequence[str] = (),
        *,
        field: str = "password",
        second_factor: bool = False,
    ) -> None:
        """Raise WeakPassword, which says what is wrong, for a new password of an account.

        The first call reads the blocklist: make it in a thread.
        """
        normal = normalise_password(password, field)
        shortest = self.min_length_with_factor if second_factor else self.min_length
        if len(normal) < shortest:
            raise WeakPassword(field, f"must have {shortest} characters or more")
        folded = fold(normal)
        piece = _repeated(folded)
        if len(piece) < SHORTEST:
            raise WeakPassword(field, "repeats a few characters; choose one that does not")
        if folded in self.blocklist or piece in self.blocklist:
            raise WeakPassword(
                field, "is common, so that it is guessed early; choose one that nobody else has"
            )
        if len(_without(folded, _words((*identifiers, *self.service_names)))) < SHORTEST:
            raise WeakPassword(
                field,
                "is made of the account's identifiers or of the service's name; it must have "
                f"{SHORTEST} characters or more besides them",
            )


def normalise_password(password: str, field: str = "password") -> str:
    """Return the NFC form, so that a password typed on two keyboards is the same password."""
    try:
        too_long = len(password.encode()) > MAX_PASSWORD_BYTES
    except UnicodeEncodeError as error:
        raise InvalidArgument(field, "must be valid Unicode text") from error
    if too_long:
        raise InvalidArgument(field, f"must have at most {MAX_PASSWORD_BYTES} bytes in UTF-8")
    return unicodedata.normalize("NFC", password)


def _repeated(text: str) -> str:
    """Return the shortest piece that makes the text by repetition; the last one may be cut."""
    for length in range(1, len(text)):
        if text[length:] == text[:-length]:
            return text[:length]
    return text


def _words(names: Iterable[str]) -> set[str]:
    """Return the names, what is before and after an @, their parts, and the parts joined."""
    words = set[str]()
    for name in map(fold, names):
        for piece in (name, *name.split("@")):
            parts = re.findall(r"[^\W_]+", piece)
            words.update((piece, "".join(parts), *parts))
    return {word for word in words if len(word) >= _SHORTEST_WORD}


def _without(text: str, words: set[str]) -> str:
    for word in sorted(words, key=len, reverse=True):
        text = text.replace(word, "")
    return text
