"""A real browser before nginx: a session's cookies, two tabs, passkeys, and sites not ours."""

import os
import shutil
import subprocess

from cases import CLERK, PATRON, Users
from check import BUILD, MismatchError, Tally

BROWSER_SECONDS = 40


def check(tally: Tally, users: Users) -> None:
    """Run the browser's own checks."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise MismatchError("Chromium is there\n  seen: none; install it (Debian: chromium)")
    env = dict(os.environ) | {
        "AUTHN_CHROMIUM": chromium,
        "AUTHN_IDENTIFIER": CLERK,
        "AUTHN_PASSWORD": users.passwords[CLERK],
        "AUTHN_PATRON": PATRON,
        "AUTHN_PATRON_PASSWORD": users.passwords[PATRON],
    }
    program = str(BUILD / "browser" / "browser.mjs")
    # `timeout` ends it as a signal would, and playwright then ends its Chromium.
    command = ["timeout", str(BROWSER_SECONDS), "node", program]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    lines = tally.adopt(ran.stdout)
    if ran.returncode or not lines:
        raise MismatchError(f"the browser\n  seen: exit {ran.returncode}: {ran.stderr}")
