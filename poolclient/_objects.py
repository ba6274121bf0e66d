"""The collections of a pool: `pool.hosts`, `pool.vms` and so on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Generic, TypeVar, Unpack, cast, overload

from poolclient import _gone
from poolclient._connection import Connection
from poolclient._core import Core
from poolclient._deadline import Deadline
from poolclient._errors import InvalidRequest
from poolclient._freshness import Freshness
from poolclient._gone import DeadHost, ForgetPreview, ForgottenHost
from poolclient._writes import Changes, Committed, metadata_patch, new_request_id
from poolcore.errors import Reason
from poolcore.model import Described, Host, Kind, Object
from poolcore.wire.codec import enum_to_proto, from_proto, object_from_proto
from poolmanager.v1 import (
    event_service_pb2,
    host_service_pb2,
    lock_service_pb2,
    network_service_pb2,
    pool_service_pb2,
    storage_service_pb2,
    task_service_pb2,
    vm_service_pb2,
)

T = TypeVar("T", bound=Object)
D = TypeVar("D", bound=Described)

PAGE_SIZE = 1_000


class Listing(Sequence[T]):
    """The objects of a collection, in order of their uuids, and how fresh the answer was.

    A listing of more than a page is put together from several answers; `freshness` is then that
    of the oldest.
    """

    def __init__(self, objects: Iterable[T], freshness: Freshness) -> None:
        self._objects = tuple(objects)
        self.freshness = freshness

    def __len__(self) -> int:
        return len(self._objects)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        return self._objects[index]

    def __repr__(self) -> str:
        return f"Listing({list(self._objects)!r}, {self.freshness!r})"


@dataclass(frozen=True, slots=True)
class _Methods:
    """Where the API has the methods of a kind."""

    service: str
    messages: ModuleType
    one: str
    many: str
    field: str
    """The field of a list's answer that holds the objects."""


_METHODS: Mapping[Kind, _Methods] = {
    Kind.HOST: _Methods("host", host_service_pb2, "Host", "Hosts", "hosts"),
    Kind.HOST_METRICS: _Methods(
        "host", host_service_pb2, "HostMetrics", "HostMetrics", "host_metrics"
    ),
    Kind.SR: _Methods("storage", storage_service_pb2, "Sr", "Srs", "srs"),
    Kind.PBD: _Methods("storage", storage_service_pb2, "Pbd", "Pbds", "pbds"),
    Kind.VDI: _Methods("storage", storage_service_pb2, "Vdi", "Vdis", "vdis"),
    Kind.NETWORK: _Methods("network", network_service_pb2, "Network", "Networks", "networks"),
    Kind.PIF: _Methods("network", network_service_pb2, "Pif", "Pifs", "pifs"),
    Kind.BOND: _Methods("network", network_service_pb2, "Bond", "Bonds", "bonds"),
    Kind.VLAN: _Methods("network", network_service_pb2, "Vlan", "Vlans", "vlans"),
    Kind.TUNNEL: _Methods("network", network_service_pb2, "Tunnel", "Tunnels", "tunnels"),
    Kind.VM: _Methods("vm", vm_service_pb2, "Vm", "Vms", "vms"),
    Kind.VBD: _Methods("vm", vm_service_pb2, "Vbd", "Vbds", "vbds"),
    Kind.VIF: _Methods("vm", vm_service_pb2, "Vif", "Vifs", "vifs"),
    Kind.TASK: _Methods("task", task_service_pb2, "Task", "Tasks", "tasks"),
    Kind.LOCK: _Methods("lock", lock_service_pb2, "Lock", "Locks", "locks"),
    Kind.MESSAGE: _Methods("event", event_service_pb2, "Message", "Messages", "messages"),
    Kind.MASTER_RECORD: _Methods(
        "pool", pool_service_pb2, "MasterRecord", "MasterRecords", "master_records"
    ),
}


def reference(ref: str | Object) -> str:
    """What names an object in a request: its uuid, or what the caller typed."""
    return ref if isinstance(ref, str) else ref.uuid


class Collection(Generic[T]):
    """All objects of one kind.

    Objects come as the frozen dataclasses of `poolcore.model`. `ref` is a uuid, a name, or a
    unique prefix of either, or an object of that kind.
    """

    def __init__(self, core: Core, kind: Kind) -> None:
        self.kind = kind
        self._core = core
        self._methods = _METHODS[kind]

    async def _page(self, token: str | None, deadline: Deadline) -> tuple[Any, Freshness]:
        methods = self._methods
        message = getattr(methods.messages, f"List{methods.many}Request")
        request = message(page_size=PAGE_SIZE, page_token=token)

        def rpc(connection: Connection) -> Any:
            return getattr(getattr(connection, methods.service), f"List{methods.many}")

        return await self._core.transport.read(rpc, request, deadline)

    async def list(self, *, timeout_seconds: float | None = None) -> Listing[T]:
        """Every object, in order of the uuids."""
        deadline = self._core.deadline(timeout_seconds)
        objects: list[T] = []
        oldest: Freshness | None = None
        token: str | None = None
        while True:
            page, freshness = await self._page(token, deadline)
            objects.extend(map(from_proto, getattr(page, self._methods.field)))
            if oldest is None or (freshness.stale and not oldest.stale):
                oldest = freshness
            token = page.next_page_token
            if not token:
                return Listing(objects, oldest)

    async def __aiter__(self) -> AsyncIterator[T]:
        """Every object, in order of the uuids, fetched page by page."""
        token: str | None = None
        while True:
            page, _ = await self._page(token, self._core.deadline(None))
            for message in getattr(page, self._methods.field):
                yield from_proto(message)
            token = page.next_page_token
            if not token:
                return

    async def get(self, ref: str | T, *, timeout_seconds: float | None = None) -> T:
        """One object; `NotFound` or `Ambiguous` when `ref` does not name exactly one."""
        obj, _ = await self.read(ref, timeout_seconds=timeout_seconds)
        return obj

    async def read(
        self, ref: str | T, *, timeout_seconds: float | None = None
    ) -> tuple[T, Freshness]:
        """As `get`, together with how fresh the answer is."""
        methods = self._methods
        message = getattr(methods.messages, f"Get{methods.one}Request")
        request = message(**{self.kind.value: reference(ref)})

        def rpc(connection: Connection) -> Any:
            return getattr(getattr(connection, methods.service), f"Get{methods.one}")

        deadline = self._core.deadline(timeout_seconds)
        answer, freshness = await self._core.transport.read(rpc, request, deadline)
        return from_proto(getattr(answer, self.kind.value)), freshness


class WritableCollection(Collection[D]):
    """A collection whose objects administrators name, describe and tag."""

    async def set(
        self,
        ref: str | D,
        *,
        timeout_seconds: float | None = None,
        request_id: str | None = None,
        **changes: Unpack[Changes],
    ) -> Committed[D]:
        """Change what is given (see `poolclient.Changes`) and leave the rest.

        Calls made at the same time share an RPC (`poolclient._writes`). `OutcomeUnknown` has the
        request id: give it here to repeat the change without making it twice.
        """
        core = self._core
        item = pool_service_pb2.UpdateItem(
            request_id=request_id or new_request_id(core.transport),
            kind=enum_to_proto(self.kind),
            object=reference(ref),
            patch=metadata_patch(changes),
        )
        deadline = core.deadline(timeout_seconds)
        done = await core.updates.update(item, deadline, core.master_patience_seconds)
        if done.HasField("object"):
            obj = cast(D, object_from_proto(done.object))
        else:  # repeated so late that only the fact of the commit is still known
            obj = await self.get(ref, timeout_seconds=deadline.remaining)
        return Committed(obj, done.revision, done.incarnation)


class HostCollection(WritableCollection[Host]):
    """The hosts, each with its priority when a master is chosen."""

    async def set(
        self,
        ref: str | Host,
        *,
        failover_priority: int | None = None,
        timeout_seconds: float | None = None,
        request_id: str | None = None,
        **changes: Unpack[Changes],
    ) -> Committed[Host]:
        """As of every writable collection; `failover_priority` is from 0, never, to 1,000."""
        if failover_priority is None:
            return await super().set(
                ref, timeout_seconds=timeout_seconds, request_id=request_id, **changes
            )
        core = self._core
        if not 0 <= failover_priority < 2**32:
            problem = "must be from 0 to 1,000"
            raise InvalidRequest(Reason.INVALID_VALUE, field="failover_priority", problem=problem)
        deadline = core.deadline(timeout_seconds)
        request = host_service_pb2.UpdateHostRequest(
            request_id=request_id or new_request_id(core.transport),
            host=reference(ref),
            patch=metadata_patch(changes),
            failover_priority=failover_priority,
        )
        answer = await core.transport.write(
            lambda c: c.host.UpdateHost, request, deadline, request.request_id
        )
        await core.transport.written(answer.incarnation, answer.revision, deadline)
        host = from_proto(answer.host) if answer.HasField("host") else await self.get(ref)
        return Committed(host, answer.revision, answer.incarnation)

    async def declare_dead(
        self,
        ref: str | Host,
        *,
        timeout_seconds: float | None = None,
        request_id: str | None = None,
    ) -> DeadHost:
        """Vouch that a host is off, so that its VMs can be started elsewhere.

        `Conflict` for one that answers (`HOST_IS_LIVE`), and for the master.
        """
        return await _gone.declare_dead(
            self._core,
            reference(ref),
            timeout_seconds=timeout_seconds,
            request_id=request_id,
        )

    async def check_forget(
        self, ref: str | Host, *, timeout_seconds: float | None = None
    ) -> ForgetPreview:
        """What forgetting a host would come to; changes nothing."""
        return await _gone.check_forget(self._core, reference(ref), timeout_seconds=timeout_seconds)

    async def forget(
        self,
        ref: str | Host,
        *,
        vouched: bool = False,
        timeout_seconds: float | None = None,
        request_id: str | None = None,
    ) -> ForgottenHost:
        """Remove a host that was declared dead, with what only it had.

        With `vouched`, one that merely does not answer: the caller vouches that it is off.
        `Conflict` for one that answers (`HOST_IS_LIVE`), and for the master.
        """
        return await _gone.forget(
            self._core,
            reference(ref),
            vouched=vouched,
            timeout_seconds=timeout_seconds,
            request_id=request_id,
        )
