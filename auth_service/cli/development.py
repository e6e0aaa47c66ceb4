"""`serve --dev`: a first user, and shell commands that call the service."""

from auth_service.cli.database import open_backend
from auth_service.cli.users import generate_password
from auth_service.config.loading import Settings
from auth_service.errors import AlreadyExists, NotFound

__all__ = ["FIRST_USER", "prepare"]

FIRST_USER = "demo@example.com"
RESET = "make user-password   (or: auth-service users set-password demo@example.com)"


async def prepare(settings: Settings, address: str = "") -> str:
    """Create the first user if there is none; return the text for the developer."""
    password = await _first_user(settings)
    address = address or settings.grpc_address
    text = _text(address.replace("0.0.0.0:", "127.0.0.1:"), _flags(settings), password)
    return text if settings.http_address == "off" else _with_http(text, settings)


def _with_http(text: str, settings: Settings) -> str:
    scheme = "http" if settings.tls_cert_file is None else "https"
    address = settings.http_address.replace("0.0.0.0:", "127.0.0.1:")
    return text.replace("\nUser ", f"\nHTTP      {scheme}://{address}\nUser ", 1)


async def _first_user(settings: Settings) -> str | None:
    """Return the password of the new user; None if the user exists."""
    async with open_backend(settings) as backend:
        try:
            await backend.accounts.get_user(FIRST_USER)
            return None
        except NotFound:
            password = generate_password()
        try:
            await backend.accounts.create_user(
                [FIRST_USER], password, roles=["admin"], scope=["profile"]
            )
        except AlreadyExists:  # by another server on the same database
            return None
        return password


def _flags(settings: Settings) -> str:
    return "-plaintext" if settings.tls_cert_file is None else f"-cacert '{settings.tls_cert_file}'"


def _text(address: str, flags: str, password: str | None) -> str:
    call = f"grpcurl {flags} -d @ {address} authn.v1.AuthService"
    if password is None:
        user = f"User      {FIRST_USER}, with the password of the first start; to reset it: {RESET}"
        note = "# Login; prompts for the password, so paste this line alone"
        credentials = (
            'python3 -c \'import getpass, json; print(json.dumps({"password": {"identifier": '
            f'"{FIRST_USER}", "password": getpass.getpass()}}}}))\''
        )
    else:
        user = f"User      {FIRST_USER}\nPassword  {password}   shown once; to reset it: {RESET}"
        note = "# Login"
        credentials = (
            f'echo \'{{"password": {{"identifier": "{FIRST_USER}", "password": "{password}"}}}}\''
        )
    return f"""
Serving   {address}
{user}

{note}
TOKENS=$({credentials} | {call}/Login); echo "$TOKENS"

# Validate
field() {{ echo "$TOKENS" | sed -n "s/.*\\"$1\\": *\\"\\([^\\"]*\\)\\".*/\\1/p"; }}
echo "{{\\"access_token\\": \\"$(field 'access_*[tT]oken')\\"}}" | {call}/Validate

# Refresh
TOKENS=$(echo "{{\\"refresh_token\\": \\"$(field 'refresh_*[tT]oken')\\"}}" | {call}/Refresh)
echo "$TOKENS"

# Revoke, after which Validate answers SESSION_REVOKED
echo "{{\\"refresh_token\\": \\"$(field 'refresh_*[tT]oken')\\"}}" | {call}/Revoke
echo "{{\\"access_token\\": \\"$(field 'access_*[tT]oken')\\"}}" | {call}/Validate
"""
