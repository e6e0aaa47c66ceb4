"""Pages of a list: how many items, and after which one (AIP-158)."""

from collections.abc import Callable
from typing import TypeVar

from auth_service import base64url
from auth_service.errors import InvalidArgument

__all__ = ["page_size", "page_start", "page_token"]

PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000

Key = TypeVar("Key")


def page_size(asked: int) -> int:
    """Return the number of items of a page. Raises InvalidArgument."""
    if asked < 0:
        raise InvalidArgument("page_size", f"must be 0 (= {PAGE_SIZE}) or more")
    return min(asked or PAGE_SIZE, MAX_PAGE_SIZE)


def page_token(last: bytes) -> str:
    """Return the token of the page that follows the item with this key."""
    return base64url.encode(last)


def page_start(token: str, read: Callable[[bytes], Key]) -> Key | None:
    """Return the key of the last item of the previous page, None for the first page.

    `read` raises ValueError or InvalidArgument for bytes that are no key.
    """
    if not token:
        return None
    try:
        return read(base64url.decode(token))
    except (ValueError, InvalidArgument) as error:
        raise InvalidArgument(
            "page_token", "must be the next_page_token of the previous page, or empty"
        ) from error
