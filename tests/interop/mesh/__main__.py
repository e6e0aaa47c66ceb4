"""Drives a real Envoy, a real nginx and a real browser with the files of deploy/: `make interop`.

run.sh has put Envoy below .interop/mesh, and nginx and Chromium on the machine. The files are used
as they are, with the fixed loopback addresses that stand in them. Words name the parts to run:
ext_authz, transcoder, jwt_authn, nginx, browser (all, where none is given).
"""

# ruff: noqa: T201 - printing is what this program is for
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import browser
import ext_authz
import forward_auth
import jwt_authn
import transcoder
from cases import GATEWAY, Users
from check import MismatchError, Tally, settings
from processes import (
    EDGE,
    EXT_AUTHZ,
    JWT_AUTHN,
    NGINX,
    SERVICE,
    TRANSCODER,
    Service,
    database,
    envoy,
    make_certificate,
    nginx,
    require_free,
    upstreams,
)

PARTS = ("ext_authz", "transcoder", "jwt_authn", "nginx", "browser")
SHORT_TTL = "2s"


def check_all(tally: Tally, directory: Path, parts: frozenset[str]) -> None:
    """Run the parts, with one database, one service and each proxy."""
    require_free()
    make_certificate(directory)
    with ExitStack() as stack:
        dsn = stack.enter_context(database(directory))
        env = settings(directory) | {
            "AUTH_DATABASE_URL": dsn,
            "AUTH_GRPC_ADDRESS": SERVICE,
            "AUTH_HTTP_ADDRESS": EDGE,
            "AUTH_ACCESS_COOKIE": "true",
            "AUTH_GATEWAY_ACCOUNT": GATEWAY,
            "AUTH_TRUSTED_PROXIES": "127.0.0.1",
            "AUTH_PASSKEY_RP_ID": "localhost",
            "AUTH_PASSKEY_ORIGINS": "https://localhost:10443",
            # jwt_authn needs public keys.
            "AUTH_SIGNING_ALGORITHM": "EdDSA",
        }
        for name in ("AUTH_EMBEDDED_DIR", "AUTH_SHARED_KEY"):
            del env[name]
        users = Users.create(env)
        with Service(directory, env | {"AUTH_ACCESS_TOKEN_TTL": SHORT_TTL}).serving():
            expired = users.tokens().access_token
        service = stack.enter_context(Service(directory, env).serving())
        stack.enter_context(upstreams(directory, tls=True))
        if "ext_authz" in parts:
            stack.enter_context(envoy(directory, "ext-authz", EXT_AUTHZ))
            ext_authz.check(tally, users, expired)
        if "transcoder" in parts:
            with envoy(directory, "transcoder", TRANSCODER):
                transcoder.check(tally, users)
        if "jwt_authn" in parts:
            with envoy(directory, "jwt-authn", JWT_AUTHN):
                jwt_authn.check(tally, users, expired)
                jwt_authn.check_rotation(tally, users, env)
        if parts & {"nginx", "browser"}:
            stack.enter_context(nginx(directory))
        if "nginx" in parts:
            forward_auth.check(tally, users, expired)
        if "browser" in parts:
            browser.check(tally, users)
        check_killed(tally, service, users, parts)


def check_killed(tally: Tally, service: Service, users: Users, parts: frozenset[str]) -> None:
    """Kill the service, look, start it again, look again."""
    token = users.tokens().access_token
    proxies = {"ext_authz": (ext_authz, EXT_AUTHZ), "nginx": (forward_auth, NGINX)}
    chosen = [proxy for name, proxy in proxies.items() if name in parts]
    if not chosen:
        return
    service.kill()
    for module, _ in chosen:
        module.check_down(tally, token)
    service.start()
    for module, address in chosen:
        ext_authz.check_recovery(tally, service, address, module.AT, token)


def main() -> int:
    """Run the parts in a directory of their own, and print the tally."""
    parts = frozenset(sys.argv[1:] or PARTS)
    if unknown := parts - set(PARTS):
        sys.exit(f"no part {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    tally = Tally()
    directory = Path(tempfile.mkdtemp(prefix="authn-mesh-"))
    if os.geteuid() == 0:
        directory.chmod(0o711)  # PostgreSQL and nginx's workers run as others, who have to pass
    failed = 0
    try:
        check_all(tally, directory, parts)
    except (MismatchError, subprocess.TimeoutExpired, OSError) as error:
        failed = 1
        print(f"not ok - {error}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(f"{tally.passed} passed, {failed} failed")
    return failed


if __name__ == "__main__":
    sys.exit(main())
