"""A real high-availability cluster: three PostgreSQL 15 under Patroni and etcd, all on loopback.

It runs deploy/patroni/patroni.yml as it is. Each node is reached through links that can hang or be
cut: by clients and by its peers at PostgreSQL's and Patroni's ports, and by itself at etcd's.
"""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import quote

from tests.chaos.link import Link
from tests.chaos.processes import (
    BUILD,
    ROOT,
    Process,
    free_port,
    postgres_account,
    processes_in,
)

__all__ = ["Cluster", "Mode", "Node"]

DEPLOY = ROOT / "deploy" / "patroni"
POSTGRESQL = Path("/usr/lib/postgresql/15/bin")
NODES = ("db1", "db2", "db3")
READY_SECONDS = 90.0
Mode: TypeAlias = Literal["asynchronous", "synchronous"]
TIMES = {"ttl": 20, "loop_wait": 1, "retry_timeout": 3}
"""The shortest that Patroni takes: a leader that vanishes is replaced after 20 seconds at most."""


class Node:
    """One PostgreSQL and the Patroni that runs it."""

    def __init__(self, name: str, directory: Path, environment: dict[str, str], etcd: int) -> None:
        self.name = name
        self.directory = directory
        self.data = directory / "data"
        self.port, self.rest_port = free_port(), free_port()
        self.postgres = Link(("127.0.0.1", self.port))
        self.rest = Link(("127.0.0.1", self.rest_port))
        self.etcd = Link(("127.0.0.1", etcd))
        self._environment = environment
        self.process: Process

    async def start(self) -> None:
        """Open the links, and start Patroni, which starts PostgreSQL."""
        for link in self._links():
            await link.open()
        environment = self._environment | {
            "PATRONI_NAME": self.name,
            "PATRONI_RESTAPI_LISTEN": f"127.0.0.1:{self.rest_port}",
            "PATRONI_RESTAPI_CONNECT_ADDRESS": f"127.0.0.1:{self.rest.port}",
            "PATRONI_ETCD3_HOSTS": f"127.0.0.1:{self.etcd.port}",
            "PATRONI_ETCD3_USE_PROXIES": "true",  # or it learns etcd's own port, past the link
            "PATRONI_POSTGRESQL_LISTEN": f"127.0.0.1:{self.port}",
            "PATRONI_POSTGRESQL_CONNECT_ADDRESS": f"127.0.0.1:{self.postgres.port}",
            "PATRONI_POSTGRESQL_DATA_DIR": str(self.data),
        }
        command: list[str | Path] = [
            "/usr/bin/python3", "-P", "-m", "patroni", self.directory / "patroni.yml",
        ]  # fmt: skip
        self.process = Process(command, self.directory / "patroni.log", environment)
        await self.process.start()

    async def role(self) -> str | None:
        """Return "primary" or "replica" as Patroni says, None if it says nothing or no lock."""
        status = await _request(self.rest_port, "GET", "/patroni")
        if status is None or status.get("state") != "running":
            return None
        role: str | None = status.get("role")
        if role == "primary" and (await _request(self.rest_port, "GET", "/primary")) is None:
            return None
        return role

    async def kill(self) -> None:
        """Kill Patroni and PostgreSQL at once, as a machine that loses power."""
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self.process.kill()

    async def crash(self) -> None:
        """Kill PostgreSQL alone; Patroni notices."""
        os.kill(self._postmaster(), signal.SIGKILL)

    def freeze(self) -> None:
        """Stop every process of the node, as a machine that hangs."""
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen node go on."""
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def cut_off(self) -> None:
        """Make the network drop what is sent to the node, and what it sends to etcd."""
        for link in self._links():
            link.hang()

    async def reconnect(self) -> None:
        """Undo `cut_off`."""
        for link in self._links():
            await link.restore()

    async def restart(self) -> None:
        """Start Patroni again after `kill`."""
        await self.process.start()

    async def stop(self) -> None:
        """End everything of the node, frozen or not."""
        if hasattr(self, "process"):
            self.thaw()
            await self.process.stop()
            for pid in processes_in(self.data):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for link in self._links():
            await link.close()

    def _links(self) -> tuple[Link, Link, Link]:
        return self.postgres, self.rest, self.etcd

    def _postmaster(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def _pids(self) -> list[int]:
        patroni = [self.process.pid] if self.process.runs else []
        return [*patroni, *processes_in(self.data)]


class Cluster:
    """Three nodes, the etcd through which they elect a leader, and the URL that names them all."""

    def __init__(self, directory: Path, mode: Mode = "asynchronous") -> None:
        self._directory = directory
        self._mode = mode
        self._password = secrets.token_urlsafe(16)
        self._etcd_port, peer = free_port(), free_port()
        self._etcd = Process(
            [BUILD / "debian/usr/bin/etcd", "--data-dir", directory / "etcd", "--name", "etcd",
             "--listen-client-urls", f"http://127.0.0.1:{self._etcd_port}",
             "--advertise-client-urls", f"http://127.0.0.1:{self._etcd_port}",
             "--listen-peer-urls", f"http://127.0.0.1:{peer}",
             "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
             "--initial-cluster", f"etcd=http://127.0.0.1:{peer}", "--unsafe-no-fsync"],
            directory / "etcd.log",
        )  # fmt: skip
        self.nodes: list[Node] = []

    @property
    def url(self) -> str:
        """The URL of the service's database: all nodes, through their links."""
        hosts = ",".join(f"127.0.0.1:{node.postgres.port}" for node in self.nodes)
        return f"postgresql://auth:{quote(self._password)}@{hosts}/auth?sslmode=disable"

    def direct_url(self, node: Node) -> str:
        """Return the URL of one node's database, without its link, for the superuser."""
        user = f"postgres:{quote(self._password)}"
        return f"postgresql://{user}@127.0.0.1:{node.port}/auth?sslmode=disable"

    async def start(self) -> None:
        """Start everything, and return once there is a leader and both others follow it."""
        _give(self._directory)
        await self._etcd.start()
        for name in NODES:
            self.nodes.append(self._node(name))
        # The first one alone, so that the others copy it instead of waiting for the lock.
        await self.nodes[0].start()
        await self.leader()
        for node in self.nodes[1:]:
            await node.start()
        await self.settled()
        await self.set_mode(self._mode)

    async def stop(self) -> None:
        """End every process that was started."""
        await asyncio.gather(*(node.stop() for node in self.nodes))
        await self._etcd.stop()

    async def leader(self) -> Node:
        """Return the node that holds the lock and takes writes, once there is one."""
        async with asyncio.timeout(READY_SECONDS):
            while True:
                for node in self.nodes:
                    if await node.role() == "primary":
                        return node
                await asyncio.sleep(0.1)

    async def settled(self) -> None:
        """Return once one node leads and all others follow it."""
        async with asyncio.timeout(READY_SECONDS):
            while True:
                roles = [await node.role() for node in self.nodes]
                followers = await self._followers()
                if roles.count("primary") == 1 and followers == len(self.nodes) - 1:
                    return
                await asyncio.sleep(0.1)

    async def set_mode(self, mode: Mode) -> None:
        """Have commits wait for a standby that confirms them, or not; return once they do."""
        synchronous = mode == "synchronous"
        change = TIMES | {"synchronous_mode": synchronous, "synchronous_mode_strict": synchronous}
        leader = await self.leader()
        await _request(leader.rest_port, "PATCH", "/config", change)
        async with asyncio.timeout(READY_SECONDS):
            while await self._synchronous_standbys() != int(synchronous):
                await asyncio.sleep(0.1)

    async def _members(self) -> list[dict[str, Any]]:
        for node in self.nodes:
            found = await _request(node.rest_port, "GET", "/cluster")
            if found is not None:
                members: list[dict[str, Any]] = found["members"]
                return members
        return []

    async def _followers(self) -> int:
        return sum(
            member["role"] in {"replica", "sync_standby"} and member["state"] == "streaming"
            for member in await self._members()
        )

    async def _synchronous_standbys(self) -> int:
        return sum(member["role"] == "sync_standby" for member in await self._members())

    def _node(self, name: str) -> Node:
        directory = self._directory / name
        directory.mkdir(mode=0o700)
        config = (DEPLOY / "patroni.yml").read_text()
        for there, here in (
            ("/etc/patroni", str(directory)),
            ("/var/lib/postgresql", str(directory)),
            ("/var/run/postgresql", str(directory)),
        ):
            config = config.replace(there, here)
        (directory / "patroni.yml").write_text(config)
        shutil.copy(DEPLOY / "post-bootstrap.sh", directory)
        environment = {
            "PATH": f"{POSTGRESQL}:{os.defpath}",
            "PYTHONPATH": str(BUILD / "patroni"),
            "PATRONI_POSTGRESQL_BIN_DIR": str(POSTGRESQL),
            "PATRONI_SUPERUSER_USERNAME": "postgres",
            "PATRONI_SUPERUSER_PASSWORD": self._password,
            "PATRONI_REPLICATION_USERNAME": "replicator",
            "PATRONI_REPLICATION_PASSWORD": self._password,
            "AUTH_DATABASE_PASSWORD": self._password,
        }
        _give(directory)
        return Node(name, directory, environment, self._etcd_port)


def _give(directory: Path) -> None:
    """Make a directory and its files those of PostgreSQL's account."""
    if (account := postgres_account()) is not None:
        for path in (directory, *directory.rglob("*")):
            os.chown(path, *account)


async def _request(
    port: int, method: str, path: str, body: object | None = None
) -> dict[str, Any] | None:
    """Return the answer of Patroni's REST API; None if there is none or it is not 200."""
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.0\r\nContent-Length: {len(content)}\r\n\r\n"
    try:
        async with asyncio.timeout(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head.encode() + content)
            answer = await reader.read()
            writer.close()
    except OSError:
        return None
    status, _, rest = answer.partition(b"\r\n")
    if b" 200 " not in status + b" ":
        return None
    found: dict[str, Any] = json.loads(rest.partition(b"\r\n\r\n")[2] or b"{}")
    return found
