"""What all parts of a client share: its connections, its queue of updates, its time limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

from poolclient._address import normal_address
from poolclient._deadline import Deadline
from poolclient._errors import InvalidRequest
from poolclient._freshness import Freshness
from poolclient._owned import OwnedTasks
from poolclient._status import PoolStatus, status_from_proto
from poolclient._transport import Transport
from poolclient._writes import UpdateQueue
from poolcore.errors import Reason
from poolcore.wire.channels import OpenChannel, open_channel
from poolmanager.v1 import pool_service_pb2


class Options(TypedDict, total=False):
    """How a client behaves.

    * `timeout_seconds`: how long a call may take unless it is told otherwise; 10 s.
    * `pool`: the uuid of the pool that is meant; hosts that are of another one are not used.
      Without it all addresses must be of one pool.
    * `require_fresh`: a read for which only a stale answer is to be had raises `StaleAnswer`.
    * `on_stale`: told of each stale answer otherwise.
    * `master_patience_seconds`: how long a write, or a read with `require_fresh`, waits for a pool
      without a master to get one; 3 s.
    * `open_channel`: how the channel to an address is opened, for networks of another kind; by
      default over TCP, or over a host's own socket.
    """

    timeout_seconds: float
    pool: str
    require_fresh: bool
    on_stale: Callable[[Freshness], None] | None
    master_patience_seconds: float
    open_channel: OpenChannel


class Core:
    """Belongs to the event loop in which it is opened."""

    def __init__(self, addresses: tuple[str, ...], options: Options) -> None:
        self.addresses = tuple(map(normal_address, addresses))
        if not self.addresses:
            problem = "at least one is needed"
            raise InvalidRequest(Reason.INVALID_VALUE, field="address", problem=problem)
        self.timeout_seconds = options.get("timeout_seconds", 10.0)
        self.master_patience_seconds = options.get("master_patience_seconds", 3.0)
        self._options = options
        self._owned = OwnedTasks()
        self._transport: Transport | None = None
        self._updates: UpdateQueue | None = None

    @property
    def transport(self) -> Transport:
        """The connections."""
        if self._transport is None:
            raise RuntimeError("enter the client first: `async with PoolClient.connect(...)`")
        return self._transport

    @property
    def updates(self) -> UpdateQueue:
        """The queue of updates."""
        if self._updates is None:
            raise RuntimeError("enter the client first: `async with PoolClient.connect(...)`")
        return self._updates

    async def open(self) -> None:
        """Find a host that answers; `NoHostAnswers` when none does."""
        if self._transport is not None:
            raise RuntimeError("a client can be entered only once")
        self._transport = Transport(
            self.addresses,
            pool=self._options.get("pool", ""),
            require_fresh=self._options.get("require_fresh", False),
            on_stale=self._options.get("on_stale"),
            master_patience_seconds=self.master_patience_seconds,
            open_channel=self._options.get("open_channel", open_channel),
        )
        self._updates = UpdateQueue(self._transport, self._owned)
        try:
            await self._transport.open(self.deadline(None))
        except BaseException:
            await self._transport.close()
            raise

    async def close(self) -> None:
        """Give everything back; calls under way fail."""
        self.updates.close()
        await self._owned.close()
        await self.transport.close()

    def deadline(self, timeout_seconds: float | None) -> Deadline:
        """By when a call must be over; the client's own time limit if none is given."""
        return Deadline.after(self.timeout_seconds if timeout_seconds is None else timeout_seconds)

    async def status(self, timeout_seconds: float | None = None) -> PoolStatus:
        """Master, chain, quorum, hosts and warnings."""
        answer, freshness = await self.transport.read(
            lambda c: c.pool.GetStatus,
            pool_service_pb2.GetStatusRequest(),
            self.deadline(timeout_seconds),
        )
        return status_from_proto(answer, freshness)
