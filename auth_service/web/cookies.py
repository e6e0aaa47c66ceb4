"""The cookies of a browser session, and the one that a login leaves on the device.

`__Host-`: only this host can set them, over TLS and for all paths (RFC 6265bis section 4.1.3.2).
HttpOnly: no script can read them. SameSite=Strict: requests from other sites do not carry them.
"""

from datetime import datetime

from starlette.responses import Response

from auth_service.models import TokenPair

__all__ = ["ACCESS_COOKIE", "DEVICE_COOKIE", "REFRESH_COOKIE", "clear_cookies", "set_cookies"]

REFRESH_COOKIE = "__Host-refresh"
ACCESS_COOKIE = "__Host-access"
DEVICE_COOKIE = "__Host-device"
_LONGEST = 4096 - len(ACCESS_COOKIE)  # bytes of name and value (RFC 6265bis section 5.6)


def set_cookies(response: Response, pair: TokenPair, now: datetime, access_cookie: bool) -> None:
    """Set the refresh token and the device token, if any, as cookies.

    With `access_cookie` the access token too.
    """
    expiries = [(REFRESH_COOKIE, pair.refresh_token, pair.refresh_expires_at)]
    if pair.device_token:
        expiries.append((DEVICE_COOKIE, pair.device_token, pair.device_expires_at))
    if access_cookie and len(pair.access_token) <= _LONGEST:  # browsers ignore longer ones
        expiries.append((ACCESS_COOKIE, pair.access_token, pair.access_expires_at))
    for name, token, expires_at in expiries:
        age = 0 if expires_at is None else max(0, int((expires_at - now).total_seconds()))
        _set(response, name, token, age)


def clear_cookies(response: Response) -> None:
    """Delete the cookies of the session; that of the device serves the next login."""
    for name in (REFRESH_COOKIE, ACCESS_COOKIE):
        _set(response, name, "", 0)


def _set(response: Response, name: str, value: str, max_age: int) -> None:
    response.set_cookie(
        name, value, max_age=max_age, path="/", secure=True, httponly=True, samesite="strict"
    )
