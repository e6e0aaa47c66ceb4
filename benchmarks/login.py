"""Login, against bare argon2 of the same profile on the same core."""

import asyncio
import subprocess
import sys
import time

from argon2 import PasswordHasher
from authn.v1 import auth_service_pb2 as pb

from auth_service.core.passwords import DEFAULT_PROFILE, PROFILES
from benchmarks.figures import Verdict, in_turn, medians, ratios, show
from benchmarks.jobs import Job
from benchmarks.load import Generator
from benchmarks.processes import OTHER_CPUS, SERVER_CPUS, run_on
from benchmarks.replicas import database
from benchmarks.tables import PASSWORD, fill

LOGIN = "/authn.v1.AuthService/Login"
USERS = 400
SECONDS = 1.5
ROUNDS = 9


def main() -> list[Verdict]:
    """Print the rates."""
    return asyncio.run(_main())


def argon2() -> PasswordHasher:
    """Return the hasher of the service's default profile."""
    profile = PROFILES[DEFAULT_PROFILE]
    return PasswordHasher(
        time_cost=profile.time_cost,
        memory_cost=profile.memory_kib,
        parallelism=profile.parallelism,
    )


def login_requests(users: int) -> list[bytes]:
    """Return a login of each of the users that `fill` made."""
    credentials = (
        pb.PasswordCredentials(identifier=f"user-{number}", password=PASSWORD)
        for number in range(1, users + 1)
    )
    return [pb.LoginRequest(password=each).SerializeToString() for each in credentials]


async def _main() -> list[Verdict]:
    hashed = argon2().hash(PASSWORD)
    # One hash at a time, which is what one core can do.
    settings = {"AUTH_HASH_WORKERS": "1"}
    async with database() as service:
        await fill(service.database_url, sessions=5 * USERS, argon2_hash=hashed)
        async with service.server(settings) as server:
            with Generator(OTHER_CPUS) as generator:
                job = Job(
                    server.address, LOGIN, login_requests(USERS), seconds=SECONDS,
                    connections=1, in_flight=8,
                )  # fmt: skip

                async def login() -> float:
                    return (await generator.run_async(job)).rate

                rates = await in_turn({"bare argon2": _bare, "Login": login}, ROUNDS)
    show(rates, "/s", 1)
    share = ratios(rates["Login"], rates["bare argon2"])
    return [Verdict("Login, of bare argon2", share, 0.90, sides=medians(rates))]


async def _bare() -> float:
    run_on(SERVER_CPUS)
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.login"], stdout=subprocess.PIPE, text=True
    )
    run_on(OTHER_CPUS)
    output, _ = await asyncio.to_thread(process.communicate)
    return float(output)


def _verify_for_a_while() -> None:
    """Print how many passwords a second are verified."""
    hasher = argon2()
    hashed, count, started = hasher.hash(PASSWORD), 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        hasher.verify(hashed, PASSWORD)
        count += 1
    print(count / (time.perf_counter() - started))


if __name__ == "__main__":
    _verify_for_a_while()
