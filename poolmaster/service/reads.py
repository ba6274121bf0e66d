"""List and Get of every class, over whatever state there is to read.

At the master that state is confirmed to be the newest; at a host without a master it is the
replica's, and every answer says that it is stale.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from immutables import Map

from poolcore.model import (
    PBD,
    PIF,
    SR,
    VBD,
    VDI,
    VIF,
    VLAN,
    VM,
    Bond,
    Host,
    HostMetrics,
    Lock,
    MasterRecord,
    Message,
    Network,
    Object,
    Task,
    Tunnel,
)
from poolcore.replica import State
from poolcore.wire.codec import to_proto
from poolmanager.v1 import (
    chain_pb2,
    event_service_pb2,
    host_service_pb2,
    lock_service_pb2,
    network_service_pb2,
    pool_service_pb2,
    storage_service_pb2,
    task_service_pb2,
    vm_service_pb2,
)
from poolmaster.decide.selection import select
from poolmaster.decide.update import invalid

PAGE = 1_000


@dataclass(frozen=True, slots=True)
class View:
    """A state to answer from."""

    state: State
    stale: bool = False
    age_seconds: float = 0.0

    def freshness(self) -> chain_pb2.Freshness:
        """What an answer from this state says of itself."""
        return chain_pb2.Freshness(
            incarnation=self.state.incarnation.uuid,
            revision=self.state.revision,
            stale=self.stale,
            age_seconds=self.age_seconds,
        )


Read = Callable[[], Awaitable[View]]
"""Gives the state to answer from, or raises `PoolError`."""
Functions = dict[str, Callable[..., Awaitable[Any]]]


@dataclass(frozen=True, slots=True)
class Noun:
    """A class as the API names it."""

    cls: type[Object]
    messages: Any
    """The module of its requests and responses."""
    field: str
    """The field of the object in `Get…Response`, and of the selector in `Get…Request`."""
    one: str
    """As in `GetVm`."""
    plural: str
    """The field in `List…Response`."""
    many: str
    """As in `ListVms`."""


NOUNS: Mapping[str, tuple[Noun, ...]] = {
    "PoolService": (
        Noun(
            MasterRecord, pool_service_pb2,
            "master_record", "MasterRecord", "master_records", "MasterRecords",
        ),
    ),
    "HostService": (
        Noun(Host, host_service_pb2, "host", "Host", "hosts", "Hosts"),
        Noun(
            HostMetrics, host_service_pb2,
            "host_metrics", "HostMetrics", "host_metrics", "HostMetrics",
        ),
    ),
    "StorageService": (
        Noun(SR, storage_service_pb2, "sr", "Sr", "srs", "Srs"),
        Noun(PBD, storage_service_pb2, "pbd", "Pbd", "pbds", "Pbds"),
        Noun(VDI, storage_service_pb2, "vdi", "Vdi", "vdis", "Vdis"),
    ),
    "NetworkService": (
        Noun(Network, network_service_pb2, "network", "Network", "networks", "Networks"),
        Noun(PIF, network_service_pb2, "pif", "Pif", "pifs", "Pifs"),
        Noun(Bond, network_service_pb2, "bond", "Bond", "bonds", "Bonds"),
        Noun(VLAN, network_service_pb2, "vlan", "Vlan", "vlans", "Vlans"),
        Noun(Tunnel, network_service_pb2, "tunnel", "Tunnel", "tunnels", "Tunnels"),
    ),
    "VMService": (
        Noun(VM, vm_service_pb2, "vm", "Vm", "vms", "Vms"),
        Noun(VBD, vm_service_pb2, "vbd", "Vbd", "vbds", "Vbds"),
        Noun(VIF, vm_service_pb2, "vif", "Vif", "vifs", "Vifs"),
    ),
    "TaskService": (Noun(Task, task_service_pb2, "task", "Task", "tasks", "Tasks"),),
    "LockService": (Noun(Lock, lock_service_pb2, "lock", "Lock", "locks", "Locks"),),
    "EventService": (
        Noun(Message, event_service_pb2, "message", "Message", "messages", "Messages"),
    ),
}  # fmt: skip
"""Which classes each service reads."""


def read_functions(service: str, read: Read) -> Functions:
    """`List…` and `Get…` of every class of a service."""
    functions: Functions = {}
    for noun in NOUNS.get(service, ()):
        functions[f"List{noun.many}"] = _lister(noun, read)
        functions[f"Get{noun.one}"] = _getter(noun, read)
    return functions


def _lister(noun: Noun, read: Read) -> Callable[[Any], Awaitable[Any]]:
    response = getattr(noun.messages, f"List{noun.many}Response")

    async def list_(request: Any) -> Any:
        view = await read()
        size = min(request.page_size or PAGE, PAGE)
        table = view.state.tables.get(noun.cls.KIND, Map())
        uuids = sorted(u for u in table if u > request.page_token)
        page = uuids[:size]
        return response(
            **{noun.plural: [to_proto(table[u]) for u in page]},
            next_page_token=page[-1] if len(uuids) > size else None,
            freshness=view.freshness(),
        )

    return list_


def _getter(noun: Noun, read: Read) -> Callable[[Any], Awaitable[Any]]:
    response = getattr(noun.messages, f"Get{noun.one}Response")

    async def get(request: Any) -> Any:
        view = await read()
        if noun.cls is HostMetrics:
            found = _metrics_of(view.state, request.host_metrics)
        else:
            found = select(view.state, noun.cls, getattr(request, noun.field))
        return response(**{noun.field: to_proto(found)}, freshness=view.freshness())

    return get


def _metrics_of(state: State, name: str) -> Object:
    # They have no name of their own: their host's names them too.
    metrics = state.get(HostMetrics, name)
    if metrics is not None:
        return metrics
    if not name:
        raise invalid("host_metrics", "is missing")
    host = select(state, Host, name)
    return next(m for m in state.all(HostMetrics) if m.host == host.uuid)
