"""Reads request bodies: small, of the right type, and without repeated names.

A form is that of OAuth (RFC 6749 section 3.2: no parameter more than once); JSON is one object of
known members.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

from auth_service.errors import InvalidArgument
from auth_service.tokens import strict_json
from auth_service.web.responses import Problem

__all__ = ["read_form", "read_json", "words"]

MAX_BODY_BYTES = 64 * 1024
_MAX_FIELDS = 100


async def read_form(request: Request, repeatable: frozenset[str] = frozenset()) -> dict[str, str]:
    """Return the parameters of a form; repeated `repeatable` ones are joined by spaces.

    Parameters without a value count as omitted (RFC 6749 section 3.2).
    """
    _require_type(request, "application/x-www-form-urlencoded")
    try:
        pairs = parse_qsl(
            (await _body(request)).decode(),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_MAX_FIELDS,
        )
    except ValueError as error:
        raise InvalidArgument("body", "is not a form in UTF-8") from error
    form: dict[str, str] = {}
    for name, value in pairs:
        if name in form and name not in repeatable:
            raise InvalidArgument(name[:64], "is given more than once")
        form[name] = f"{form[name]} {value}" if name in form else value
    return {name: value for name, value in form.items() if value}


async def read_json(request: Request, members: Mapping[str, type]) -> dict[str, Any]:
    """Return the members of a JSON object: strings or lists of strings, as `members` says.

    An empty body is an empty object.
    """
    body = await _body(request)
    if not body:
        return {}
    _require_type(request, "application/json")
    try:
        content = strict_json.decode(body.decode())
    except ValueError as error:
        raise InvalidArgument("body", "is not JSON, or has a member twice") from error
    if not isinstance(content, dict):
        raise InvalidArgument("body", "must be a JSON object")
    for name, value in content.items():
        if name not in members:
            raise InvalidArgument(name[:64], f"is unknown; the members are: {', '.join(members)}")
        strings = value if members[name] is list else [value]
        if type(strings) is not list or not all(_is_text(each) for each in strings):
            kind = "a list of strings" if members[name] is list else "a string"
            raise InvalidArgument(name, f"must be {kind} without lone surrogates")
    return content


def words(text: str) -> list[str]:
    """Return the words of a space-separated list (RFC 6749 section 3.3)."""
    return [word for word in text.split(" ") if word]


async def _body(request: Request) -> bytes:
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                # Without "connection: close", whose reset could overtake the answer.
                text = f"the body is larger than {MAX_BODY_BYTES} bytes"
                raise Problem(413, "invalid_request", text)
    except ClientDisconnect as error:  # not a fault of the service
        raise InvalidArgument("body", "ended too early") from error
    return body


def _require_type(request: Request, wanted: str) -> None:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != wanted:
        raise Problem(415, "invalid_request", f"the content-type must be {wanted}")


def _is_text(value: object) -> bool:
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False
