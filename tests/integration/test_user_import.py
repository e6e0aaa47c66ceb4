"""The import of users with foreign hashes, on a real PostgreSQL: no double, a reason each."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from click.testing import CliRunner

from auth_service.cli.app import cli
from auth_service.core.user_import import ImportedUser, ImportResult
from auth_service.db.login_attempts import Bucket
from auth_service.db.store import Store
from auth_service.errors import AlreadyExists, InvalidCredentials, Unavailable
from auth_service.models import User
from tests.clock import FakeClock
from tests.foreign_hashes import BCRYPT, DJANGO_PBKDF2, HASHES, KEYCLOAK_ARGON2, SENTENCE
from tests.integration.core import PASSWORD, Core, make_core
from tests.integration.serving import MASTER_KEY

ID = "6f1e1f9e-6a1a-4a53-9d2c-0a1de7d5a001"


@pytest.fixture
async def core(store: Store, clock: FakeClock) -> AsyncIterator[Core]:
    core = make_core(store, clock)
    yield core
    core.hasher.close()


async def add(core: Core, *users: ImportedUser, dry_run: bool = False) -> ImportResult:
    """Import a batch."""
    return await core.accounts.imports.add(users, dry_run=dry_run)


def people(names: Sequence[str], **values: Any) -> list[ImportedUser]:
    """Return a user for each name."""
    return [ImportedUser(n, [name], BCRYPT, **values) for n, name in enumerate(names)]


class TestFirstLogin:
    @pytest.mark.parametrize(("given", "password"), HASHES.values(), ids=HASHES.keys())
    async def test_the_first_login_makes_the_hash_our_own(
        self, core: Core, pool: Any, given: str, password: str
    ) -> None:
        """With the password of the other system, however short; a wrong one changes nothing."""
        assert (await add(core, ImportedUser(1, ["ada"], given))).created == 1
        kept = await pool.fetchval("SELECT password_hash FROM users")
        with pytest.raises(InvalidCredentials):
            await core.sessions.login_password("ada", password + "x")
        assert await pool.fetchval("SELECT password_hash FROM users") == kept
        await core.sessions.login_password("ada", password)
        renewed = await pool.fetchval("SELECT password_hash FROM users")
        assert renewed.startswith("$argon2id$v=19$m=8,t=1,p=1$")
        await core.sessions.login_password("ada", password)
        assert await pool.fetchval("SELECT password_hash FROM users") == renewed

    async def test_who_has_no_password_logs_in_once_one_is_set(self, core: Core) -> None:
        """Such as a user of a social login, or of a hash that is too old."""
        await add(core, ImportedUser(1, ["ada"], user_id=ID))
        for password in ("", "no account has this password"):
            with pytest.raises(InvalidCredentials):
                await core.sessions.login_password("ada", password)
        await core.accounts.set_password(UUID(ID), PASSWORD)
        await core.sessions.login_password("ada", PASSWORD)


class TestTime:
    async def test_an_unknown_identifier_costs_what_a_random_user_costs(
        self, core: Core, clock: FakeClock
    ) -> None:
        """So that the time of an old hash does not tell that its user exists."""
        await add(core, *people([f"user{n}" for n in range(20)]))
        await add(core, *(ImportedUser(n, [f"django{n}"], DJANGO_PBKDF2) for n in range(20)))
        drawn = [await self.decoy(core, clock, f"nobody{n}") for n in range(40)]
        assert set(drawn) <= {BCRYPT, DJANGO_PBKDF2, None}
        assert 0 < drawn.count(BCRYPT) < 40
        assert [await self.decoy(core, clock, f"nobody{n}") for n in range(40)] == drawn

    async def decoy(self, core: Core, clock: FakeClock, identifier: str) -> str | None:
        """Return what an attempt with an identifier is verified with if nobody has it."""
        bucket = Bucket(1, 1000, timedelta(seconds=1))
        reserved = await core.store.reserve_login_attempt(
            identifier, clock.now, [None, bucket, bucket._replace(slot=2)]
        )
        assert (reserved.user, reserved.wait) == (None, None)
        return reserved.decoy

    async def test_no_password_of_another_user_opens_anything(self, core: Core) -> None:
        """Who is not there never gets in, whosever hash the time is spent on."""
        await add(core, *people(["ada"]))
        for n in range(5):
            with pytest.raises(InvalidCredentials):
                await core.sessions.login_password(f"nobody{n}", SENTENCE)
        user = await core.accounts.get_user("ada")
        assert user.password_hash == BCRYPT


class TestAdd:
    async def test_every_field_is_kept(self, core: Core, clock: FakeClock) -> None:
        """Identifiers in the normal form in which they are looked up; the id stays the user's."""
        long_ago = clock.now - timedelta(days=1000)
        full = ImportedUser(
            1, ["Ada@Example.com", " ADA ", "ada"], DJANGO_PBKDF2, ID, ["staff", "on call"],
            ["read", "write"], True, long_ago,
        )  # fmt: skip
        assert await add(core, full, ImportedUser(2, ["bob"])) == ImportResult(2, 0, ())
        kept = User(
            id=UUID(ID),
            identifiers=("ada@example.com", "ada"),
            password_hash=DJANGO_PBKDF2,
            roles=("staff", "on call"),
            scope=("read", "write"),
            disabled=True,
            created_at=long_ago,
        )
        assert await core.accounts.get_user("ADA") == kept
        bob = await core.accounts.get_user("bob")
        assert (bob.roles, bob.scope, bob.disabled, bob.created_at) == ((), (), False, clock.now)

    async def test_what_was_imported_is_left_alone(self, core: Core, pool: Any) -> None:
        """An import that was cut off is run again, also by who has no ids, and makes no double."""
        users = [*people(["ada", "bob"]), ImportedUser(2, ["cy"], KEYCLOAK_ARGON2, ID)]
        assert (await add(core, *users[:2])).created == 2
        assert await add(core, *users) == ImportResult(1, 2, ())
        await core.sessions.login_password("ada", SENTENCE)
        before = await pool.fetch("SELECT * FROM users ORDER BY id")
        assert await add(core, *users) == ImportResult(0, 3, ())
        assert await pool.fetch("SELECT * FROM users ORDER BY id") == before
        assert await pool.fetchval("SELECT count(*) FROM user_identifiers") == 3

    async def test_a_user_twice_in_a_batch_is_one(self, core: Core) -> None:
        """Whatever the case."""
        assert await add(core, *people(["ada", "ADA", "bob"])) == ImportResult(2, 1, ())

    async def test_each_refusal_has_its_position_its_field_and_a_reason(
        self, core: Core, clock: FakeClock
    ) -> None:
        """The others of the batch are made."""
        await add(core, ImportedUser(0, ["taken"], user_id=ID), ImportedUser(0, ["other"]))
        later = clock.now + timedelta(seconds=1)
        result = await add(
            core,
            ImportedUser(1, []),
            ImportedUser(2, ["ok", "a\0"]),
            ImportedUser(3, ["bad-hash"], "md5"),
            ImportedUser(4, ["bad-id"], user_id="7"),
            ImportedUser(5, ["bad-role"], roles=[""]),
            ImportedUser(6, ["bad-scope"], scope=["a b"]),
            ImportedUser(7, ["too-late"], created_at=later),
            ImportedUser(8, ["new", "taken"]),
            ImportedUser(9, ["taken", "other"]),
            ImportedUser(10, ["taken"], user_id=str(uuid4())),
            ImportedUser(11, ["other"], user_id=ID),
            ImportedUser(12, ["good"]),
            ImportedUser(13, ["good", "better"]),
            ImportedUser(14, ["renamed"], user_id=ID),
        )
        assert (result.created, result.existing) == (1, 1)
        assert {each.position: each.field for each in result.refusals} == {
            1: "identifiers",
            2: "identifiers[1]",
            3: "password_hash",
            4: "id",
            5: "roles[0]",
            6: "scope[0]",
            7: "created_at",
            8: "identifiers",
            9: "identifiers",
            10: "identifiers",
            11: "identifiers",
            13: "identifiers",
        }
        assert all(each.problem for each in result.refusals)

    async def test_a_dry_run_writes_nothing(self, core: Core, pool: Any) -> None:
        """And tells the same."""
        await add(core, *people(["ada"]))
        users = [*people(["ada", "bob"]), ImportedUser(2, [""])]
        assert (await add(core, *users, dry_run=True)).created == 1
        assert await pool.fetchval("SELECT count(*) FROM users") == 1
        assert (await add(core, *users)).created == 1

    async def test_parallel_imports_make_no_double_and_no_deadlock(
        self, core: Core, pool: Any
    ) -> None:
        """Of the same users in other orders, next to creations one by one."""
        names = [f"user{n}" for n in range(50)]
        results = await asyncio.gather(
            *(add(core, *people(names[::step])) for step in (1, -1, 1, -1)),
            *(core.user(name) for name in names[::10]),
            return_exceptions=True,
        )
        counts = [each for each in results if isinstance(each, ImportResult)]
        made = [each for each in results if isinstance(each, User)]
        assert len(counts) == 4
        assert sum(each.created for each in counts) + len(made) == 50
        assert all(each.created + each.existing == 50 for each in counts)
        assert all(isinstance(each, (ImportResult, User, AlreadyExists)) for each in results)
        assert await pool.fetchval("SELECT count(*) FROM users") == 50

    async def test_a_database_that_is_down_fails_the_batch(self, core: Core, pool: Any) -> None:
        """The command ends, and is run again."""
        pool.terminate()
        with pytest.raises(Unavailable):
            await add(core, *people(["ada"]))

    async def test_a_batch_leaves_one_row_in_the_audit_log(self, core: Core, pool: Any) -> None:
        """In the same transaction, with the number of accounts; none if nothing was made."""
        users = people(["ada", "bob"])
        await add(core, *users)
        await add(core, *users)
        [row] = await pool.fetch("SELECT event, details FROM audit_log")
        assert (row["event"], json.loads(row["details"])) == ("users.imported", {"created": "2"})


class TestCommand:
    def invoke(self, database_url: str, *arguments: str, stdin: str | None = None) -> Any:
        """Run `users import`."""
        variables = {"AUTH_DATABASE_URL": database_url, "AUTH_MASTER_KEY": MASTER_KEY}
        return CliRunner().invoke(cli, ["users", "import", *arguments], input=stdin, env=variables)

    def test_a_file_is_imported_and_refused_lines_are_reported(
        self, database_url: str, tmp_path: Path
    ) -> None:
        """Dry first, then in earnest, then again."""
        file = tmp_path / "users.csv"
        file.write_bytes(
            f"identifiers,password_hash\nada@example.com,{BCRYPT}\nbob,md5\n\xff,\ncy,\n".encode(
                "latin-1"
            )
        )
        dry = self.invoke(database_url, str(file), "--dry-run")
        assert dry.stderr.endswith("2 would be created, 0 existed already, 2 refused\n")
        for created, existing in ((2, 0), (0, 2)):
            done = self.invoke(database_url, str(file))
            assert done.exit_code == 1
            assert f"{created} created, {existing} existed already, 2 refused" in done.stderr
            lines = done.stdout.splitlines()
            assert lines[0].startswith("line 3: password_hash is of no form that is read here")
            assert lines[1].startswith("line 4: identifiers[0] must not contain control")
            assert len(lines) == 2

    def test_standard_input_is_read_and_json_is_printed(self, database_url: str) -> None:
        """For scripts: a line for each refusal, then the counts."""
        users = [{"identifiers": ["ada"], "password_hash": BCRYPT}, {"identifiers": []}]
        text = "\n".join(map(json.dumps, users)) + "\nnonsense\n"
        done = self.invoke(database_url, "-", "--json", stdin=text)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert [(line["line"], line["field"]) for line in lines[:2]] == [
            (2, "identifiers"), (3, "line")
        ]  # fmt: skip
        assert lines[2] == {"created": 1, "existing": 0, "refused": 2}
        assert self.invoke(database_url, "-", stdin='{"identifiers": "bob"}').exit_code == 0
        assert self.invoke(database_url, "nowhere.csv").exit_code == 2
