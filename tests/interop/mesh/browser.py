"""A real browser before nginx: the cookies of a session, two tabs, and sites that are not ours."""

import os
import shutil
import subprocess

from cases import CLERK, Users
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
    }
    program = str(BUILD / "browser" / "browser.mjs")
    # `timeout` ends it as a signal would, and playwright then ends its Chromium.
    command = ["timeout", str(BROWSER_SECONDS), "node", program]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    lines = tally.adopt(ran.stdout)
    if ran.returncode or not lines:
        raise MismatchError(f"the browser\n  seen: exit {ran.returncode}: {ran.stderr}")
