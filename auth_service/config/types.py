"""The types of settings, each with an error text for wrong values.

Owns how text of the environment becomes a value. Knows no setting by name.
"""

import ipaddress
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_core import PydanticCustomError
from pydantic_settings import NoDecode

from auth_service import base64url
from auth_service.config.durations import parse_duration

__all__ = [
    "Address",
    "DatabaseUrl",
    "Duration",
    "DurationOrZero",
    "File",
    "HttpAddress",
    "Key",
    "Names",
    "Networks",
    "OptionalNames",
    "Origins",
    "Positive",
    "PublicUrl",
    "wrong",
]

_WEB_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[\da-f:.]+\]|[\w.-]+)(?::(?P<port>\d{1,5}))?"
    r"(?P<path>(?:/[^?#\s]*)?)",
    re.ASCII | re.IGNORECASE,
)


def wrong(text: str) -> PydanticCustomError:
    """Return the error for a setting with a wrong value."""
    return PydanticCustomError("setting", "{text}", {"text": text})


def _duration(value: object) -> timedelta:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise wrong(str(error)) from None


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise wrong(f"{value!r} is not a network, such as 10.0.0.0/8 or ::1") from None


def _named_path(value: object) -> object:
    if value == "":
        raise wrong("is empty; unset it, or name a file")
    return value


def _address(value: str) -> str:
    if value.startswith("unix:"):
        return value
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise wrong("is not host:port")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise wrong("has an IPv6 address without brackets")
    return value


def _http_address(value: str) -> str:
    return value if value == "off" else _tcp_address(value)


def _tcp_address(value: str) -> str:
    if value.startswith("unix:"):
        raise wrong("is not host:port")
    return _address(value)


def _public_url(value: str) -> str:
    origin, path = _web_url(value, "is not an http or https URL without user, query and fragment")
    return origin + path.rstrip("/")


def _origin(value: str) -> str:
    form = "is not an origin: http or https, an ASCII host and an optional port, without a path"
    origin, path = _web_url(value, form)
    if path:
        raise wrong(form)
    return origin


def _web_url(value: str, form: str) -> tuple[str, str]:
    """Return the origin as browsers write it (RFC 6454 section 6.2), and the path."""
    match = _WEB_URL.fullmatch(value)
    if match is None or int(match["port"] or 0) > 65535:
        raise wrong(form)
    scheme, host = match["scheme"].lower(), match["host"].lower()
    usual = "443" if scheme == "https" else "80"
    port = "" if match["port"] in (None, usual) else f":{match['port']}"
    return f"{scheme}://{host}{port}", match["path"]


def _database_url(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("postgresql://", "postgres://")):
        raise wrong("does not begin with postgresql://")
    return value


def _key(value: SecretStr) -> SecretStr:
    try:
        base64url.decode_secret(value.get_secret_value())
    except ValueError as error:
        raise wrong(str(error)) from None
    return value


_LONGEST = timedelta(days=3650)  # other verifiers refuse tokens that expire in a distant future
Duration = Annotated[timedelta, BeforeValidator(_duration), Field(gt=timedelta(0), le=_LONGEST)]
DurationOrZero = Annotated[
    timedelta, BeforeValidator(_duration), Field(ge=timedelta(0), le=_LONGEST)
]
Names = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=256)], ...],
    NoDecode,
    BeforeValidator(_split),
    Field(min_length=1, max_length=16),
]
OptionalNames = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=256)], ...],
    NoDecode,
    BeforeValidator(_split),
]
Networks = Annotated[
    tuple[Annotated[str, AfterValidator(_network)], ...], NoDecode, BeforeValidator(_split)
]
File = Annotated[Path, BeforeValidator(_named_path)]
Key = Annotated[SecretStr, AfterValidator(_key)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_database_url)]
Address = Annotated[str, AfterValidator(_address)]
HttpAddress = Annotated[str, AfterValidator(_http_address)]
ProbeAddress = Annotated[str, AfterValidator(_tcp_address)]
PublicUrl = Annotated[str, AfterValidator(_public_url)]
Origins = Annotated[
    tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(_split)
]
Positive = Annotated[int, Field(ge=1)]
