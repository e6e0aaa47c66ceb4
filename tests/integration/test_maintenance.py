"""Maintenance: the jobs of a serving process, on a real database."""

import asyncio
import re
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from auth_service.clock import utc_now
from auth_service.db.database_clock import read_clock
from auth_service.db.key_store import KeyStore
from auth_service.db.store import Store
from auth_service.rpc.health import HealthServicer
from auth_service.serving.maintenance import Job, Maintenance, jobs
from auth_service.serving.readiness import Readiness
from auth_service.serving.wiring import Database, signing_keys
from auth_service.telemetry.metrics import Successes, metrics_text
from tests.integration.serving import make_settings, running, until

if TYPE_CHECKING:
    from auth_service.db.pool import Pool

SIGNATURES = 7
OLD_REVOCATION = """
    INSERT INTO revocations (kind, target, expires_at, created_at) VALUES ('token', 'old', $1, $1)
"""


@pytest.fixture
async def database(database_url: str, pool: "Pool") -> Database:
    """The stores on the test's database."""
    async with pool.acquire() as connection:
        return Database(database_url, Store(pool), KeyStore(pool), await read_clock(connection))


async def run_once(database: Database, database_url: str, **changes: object) -> list[str]:
    """Run each job of a server once; return what was announced."""
    announced: list[str] = []
    keys = await signing_keys(make_settings(database_url, shared_key=None, **changes), database)
    for job in jobs(database, keys, lambda: announced.append("keys"), lambda: SIGNATURES):
        await job.work()
    return announced


async def test_jobs_prune_the_database_and_extend_the_audit_log(
    database: Database, database_url: str, pool: "Pool"
) -> None:
    """Expired revocations and old keys are deleted; the audit log has the next month's partition.

    This month began in the default partition: the key of this process was made before.
    """
    past = utc_now() - timedelta(days=400)
    await pool.execute(OLD_REVOCATION, past)
    await pool.execute(
        "INSERT INTO signing_keys "
        "(kid, algorithm, encrypted_secret, created_at, activate_at, retire_at, remove_at) "
        "VALUES ('old', 'HS256', '', $1, $1, $1, $1)",
        past,
    )
    await run_once(database, database_url)
    assert await pool.fetchval("SELECT count(*) FROM revocations") == 0
    assert await pool.fetchval("SELECT count(*) FROM signing_keys WHERE kid = 'old'") == 0
    next_month = utc_now().replace(day=1) + timedelta(days=32)
    partition = f"audit_log_{next_month:%Y%m}"
    assert await pool.fetchval("SELECT to_regclass($1)::text", partition) == partition


async def test_a_due_key_is_made_and_announced(database: Database, database_url: str) -> None:
    """A key that is not due is not announced."""
    assert await run_once(database, database_url) == []
    due = {"key_rotation_interval": "20s", "key_publish_lead": "19999ms"}
    assert await run_once(database, database_url, **due) == ["keys"]
    assert len(await database.key_store.load()) == 2


async def test_the_jobs_count_successful_calls(database: Database, database_url: str) -> None:
    """A call that was recorded before the jobs ran is counted after."""
    method = f"/maintenance.Test/{uuid4()}"
    Successes.of(method).seconds.append(0.001)
    await run_once(database, database_url)
    assert Successes.of(method).seconds == []
    assert f'auth_rpc_total{{code="OK",method="{method}"}} 1.0' in metrics_text().decode()


async def test_the_jobs_count_verified_signatures(database: Database, database_url: str) -> None:
    """What was verified since the last run is added."""

    def counted() -> float:
        (line,) = re.findall(
            r"^auth_signatures_verified_total (.*)$", metrics_text().decode(), re.MULTILINE
        )
        return float(line)

    before = counted()
    await run_once(database, database_url)
    assert counted() == before + SIGNATURES


async def test_a_running_server_needs_no_cron_job(database_url: str, pool: "Pool") -> None:
    """It prunes by itself."""
    await pool.execute(OLD_REVOCATION, utc_now() - timedelta(days=1))
    async with running(make_settings(database_url)):
        await until(
            database_url, "SELECT count(*) = 0 FROM revocations", what="the old revocation is gone"
        )


async def test_health_follows_the_age_of_the_revocations(
    database: Database, database_url: str
) -> None:
    """Past the freshness limit the server is NOT_SERVING and not ready, until they are fresh."""
    settings, health = make_settings(database_url, freshness_limit="5s"), HealthServicer([])
    age: list[timedelta] = []
    readiness = Readiness(settings, health, database, lambda: database.clock() - age[-1])
    seen = []
    for seconds in (1, 6, 1):
        age.append(timedelta(seconds=seconds))
        for job in readiness.jobs():
            await job.work()
        seen.append((health.serving, readiness.is_ready()))
    assert seen == [(True, True), (False, False), (True, True)]


async def test_a_job_that_fails_is_logged_and_runs_again() -> None:
    """The other jobs are not affected."""
    runs: dict[str, int] = {"good": 0, "broken": 0}
    enough = asyncio.Event()

    async def good() -> None:
        runs["good"] += 1

    async def broken() -> None:
        runs["broken"] += 1
        if min(runs.values()) >= 3:
            enough.set()
        raise RuntimeError("no")

    maintenance = Maintenance([Job("broken", 0, broken), Job("good", 0, good)])
    with capture_logs() as logs:
        maintenance.start()
        await enough.wait()
        await maintenance.stop()
    assert {entry["event"] for entry in logs} == {"maintenance_failed"}
    assert {entry["job"] for entry in logs} == {"broken"}
    after = dict(runs)
    await asyncio.sleep(0)
    assert runs == after
