"""A real browser before nginx: the cookies of a session, two tabs, and sites that are not ours."""

import os
from check import BUILD, MismatchError, Tally, run
from cases import CLERK, Users


def check(tally: Tally, users: Users) -> None:
    """Run the browser's own checks."""
    env = dict(os.environ) | {"AUTHN_IDENTIFIER": CLERK, "AUTHN_PASSWORD": users.passwords[CLERK]}
    ran = run("node", BUILD / "browser" / "browser.mjs", env=env)
    lines = tally.adopt(ran.stdout)
    if ran.returncode or not lines:
        raise MismatchError(f"the browser\n  seen: exit {ran.returncode}: {ran.stdout}{ran.stderr}")
