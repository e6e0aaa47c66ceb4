"""The throttle of logins: which buckets an attempt takes from, by who tries and from where.

Owns that an attempt is reserved before its password is hashed, and that strangers cannot use up
the attempts of somebody who shows a session of the account, or a device token. docs/throttling.md
tells the rules.

Sources, identifiers and sessions are spread over a fixed number of buckets by a hash whose key
nobody outside knows. So the table is bounded whoever tries from wherever, and nobody can pick an
address or an identifier that shares the bucket of another.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from uuid import UUID

from auth_service.addresses import ip_of, network_of
from auth_service.clock import Clock
from auth_service.db.login_attempts import Bucket, Shown
from auth_service.db.store import Store
from auth_service.errors import InvalidGrant, RateLimited
from auth_service.models import Taken, User
from auth_service.telemetry.metrics import LOGINS_THROTTLED
from auth_service.tokens.device import DeviceTokens
from auth_service.tokens.refresh import RefreshTokens

__all__ = ["NOWHERE", "SLOTS", "Attempt", "LoginOrigin", "Rate", "Throttle", "ThrottlePolicy"]

SLOTS = 1 << 20
"""Buckets of each kind. To keep one in a hundred of them empty takes a thousand failed logins a
second with the default rates, each of which costs a hash."""
_MAX_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` attempts at once; one of them is regained each `refill`."""

    burst: int
    refill: timedelta

    @property
    def whole(self) -> timedelta:
        """The time in which all of them are regained."""
        return self.burst * self.refill


@dataclass(frozen=True, slots=True)
class ThrottlePolicy:
    """How many failed logins there may be."""

    network: Rate = Rate(10, timedelta(seconds=10))
    """With one identifier from one network, or by one holder of a session or device token."""
    networks: int = 5
    """With one identifier from all networks together: so many times those of one network."""
    source: Rate | None = Rate(100, timedelta(seconds=1))
    """From one source, whatever the identifiers; None for no limit."""

    @property
    def identifier(self) -> Rate:
        """With one identifier by all strangers together."""
        return Rate(self.network.burst * self.networks, self.network.refill / self.networks)


@dataclass(frozen=True, slots=True)
class LoginOrigin:
    """Where a login comes from, and what it shows of an earlier one."""

    address: str = ""
    """The IP address of the client; empty if it is unknown."""
    shown: tuple[str, ...] = field(default=(), repr=False)
    """Device tokens and refresh tokens, unverified. One that is good for nothing does no harm."""
    session: tuple[UUID, UUID] | None = None
    """The user and the session of a valid access token."""
    certificate: str = ""
    """The thumbprint of the client's certificate, or empty."""


NOWHERE = LoginOrigin()
"""The origin of a call from an unknown place, which shows nothing."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A login attempt that was reserved."""

    user: User | None
    """The user with the identifier, if there is one."""
    taken: tuple[Taken, ...]
    """What to give back if the password is right."""
    decoy: str | None = field(default=None, repr=False)
    """What to verify the password with if there is no user."""


class _Kind(IntEnum):
    """The kinds of buckets, in the order in which an attempt takes from them."""

    SOURCE = 0
    NETWORK = 1
    IDENTIFIER = 2
    OWN = 3


class Throttle:
    """Reserves login attempts."""

    def __init__(
        self,
        store: Store,
        policy: ThrottlePolicy,
        key: bytes,
        refresh_tokens: RefreshTokens,
        device_tokens: DeviceTokens,
        clock: Clock,
        slots: int = SLOTS,
    ) -> None:
        """`key` spreads the attempts over `slots` buckets of each kind."""
        self._store = store
        self._policy = policy
        self._key = key
        self._refresh_tokens = refresh_tokens
        self._device_tokens = device_tokens
        self._clock = clock
        self._slots = slots

    async def reserve(self, identifier: str, origin: LoginOrigin) -> Attempt:
        """Take one attempt with a normalised identifier. Raises RateLimited if none is left.

        An identifier without an account is counted in the same way.
        """
        strangers = self._strangers(identifier, origin.address)
        shown, own = self._shown(origin), self._policy.network
        reserved = await self._store.reserve_login_attempt(
            identifier, self._clock(), strangers, shown, own.burst, own.refill
        )
        if reserved.wait is not None:
            raise self._refusal(reserved.bucket, reserved.wait)
        taken = tuple(self._taken(reserved.own, strangers))
        return Attempt(reserved.user, taken, reserved.decoy)

    def _strangers(self, identifier: str, address: str) -> list[Bucket | None]:
        """Return the buckets of the source, of its network, and of the identifier."""
        policy, source, network = self._policy, "", ""
        ip = ip_of(address) if address else None
        if ip is not None and not ip.is_loopback:  # behind loopback is a proxy, or the operator
            source, network = network_of(ip, 32, 64), network_of(ip, 24, 48)
        by_source = None
        if source and policy.source is not None:
            by_source = _bucket(self._slot(_Kind.SOURCE, source), policy.source)
        return [
            by_source,
            _bucket(self._slot(_Kind.NETWORK, network, identifier), policy.network),
            _bucket(self._slot(_Kind.IDENTIFIER, identifier), policy.identifier),
        ]

    def _shown(self, origin: LoginOrigin) -> list[Shown]:
        """Return what may open a bucket of its own."""
        found = [] if origin.session is None else [self._opened(*origin.session)]
        return found + [
            opened for token in origin.shown[:_MAX_SHOWN] if (opened := self._read(token))
        ]

    def _read(self, token: str) -> Shown | None:
        now = self._clock().timestamp()
        with suppress(InvalidGrant):
            session = self._refresh_tokens.read(token)
            if session.expires_at > now:
                opened = self._opened(session.user_id, session.session_id)
                return opened._replace(generation=session.generation)
        with suppress(InvalidGrant):
            device = self._device_tokens.read(token)
            if device.expires_at > now:
                opened = self._opened(device.user_id, device.session_id)
                return opened._replace(issued_at=datetime.fromtimestamp(device.issued_at, UTC))
        return None

    def _opened(self, user_id: UUID, session_id: UUID) -> Shown:
        return Shown(self._slot(_Kind.OWN, session_id.hex), user_id, session_id)

    def _taken(self, own: int | None, strangers: Sequence[Bucket | None]) -> Iterator[Taken]:
        """Return what a right password gives back.

        All attempts where the password came from, as they were typing errors of its owner, but one
        only where others may have failed, as somebody with an account could otherwise guess at
        other accounts without end.
        """
        network = self._policy.network
        if own is not None:
            yield Taken(own, network.whole)
            return
        by_source, by_network, by_identifier = strangers
        for bucket in (by_source, by_identifier):
            if bucket is not None:
                yield Taken(bucket.slot, bucket.refill)
        if by_network is not None:
            yield Taken(by_network.slot, network.whole)

    def _refusal(self, slot: int, wait: timedelta) -> RateLimited:
        kind = _Kind(slot // self._slots).name.lower()
        LOGINS_THROTTLED.labels(kind).inc()
        return RateLimited("too many failed logins; wait", wait)

    def _slot(self, kind: _Kind, *parts: str) -> int:
        """Return the bucket of a kind; identifiers have no unprintable characters."""
        text = "\0".join((kind.name, *parts)).encode()
        digest = hashlib.blake2b(text, digest_size=8, key=self._key).digest()
        return kind * self._slots + int.from_bytes(digest) % self._slots


def _bucket(slot: int, rate: Rate) -> Bucket:
    return Bucket(slot, rate.burst, rate.refill)
