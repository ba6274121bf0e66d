"""The API as the master serves it, and as a host without a master does: every method's handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor

from poolcore.errors import PoolError, Reason
from poolcore.wire.codec import to_proto
from poolcore.wire.serving import Handlers, handlers, path_of
from poolmanager.v1 import (
    event_service_pb2,
    host_service_pb2,
    lock_service_pb2,
    member_service_pb2,
    network_service_pb2,
    pool_service_pb2,
    storage_service_pb2,
    task_service_pb2,
    vm_service_pb2,
)
from poolmaster.mastership import Mastership
from poolmaster.service import backups, hosts, locks, recoveries, writes
from poolmaster.service.events import watch
from poolmaster.service.foresight import Sources, foresight_functions, sources_of_master
from poolmaster.service.reads import Read, View, read_functions
from poolmaster.service.status import status_of_master
from poolmaster.sessions import Requests, Send

SERVICES: tuple[ServiceDescriptor, ...] = tuple(
    service
    for module in (
        pool_service_pb2,
        host_service_pb2,
        storage_service_pb2,
        network_service_pb2,
        vm_service_pb2,
        task_service_pb2,
        lock_service_pb2,
        event_service_pb2,
        member_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
)
"""What the master answers, and any other host passes on to it."""

SESSION = "/poolmanager.v1.MemberService/Session"
"""Never passed on: a session is with the master itself."""

METHODS = {path_of(m): m for service in SERVICES for m in service.methods}


def _pool_functions(master: Mastership, read: Read) -> dict[str, Callable[..., Any]]:
    async def get_status(_: Any) -> Any:
        await master.ledger.confirm()
        return status_of_master(master)

    return {
        "GetPool": partial(get_pool, read),
        "GetStatus": get_status,
        "UpdatePool": partial(writes.update_pool, master),
        "BatchUpdate": partial(writes.batch_update, master),
        "CheckHost": partial(hosts.check_host, master),
        "AddHost": partial(hosts.add_host, master),
        "EjectHost": partial(hosts.eject_host, master),
        "GetJoin": partial(hosts.get_join, master),
        "DesignateMaster": partial(hosts.designate_master, master),
        "DrillFailover": partial(hosts.drill_failover, master),
        "ListRecoveries": partial(recoveries.list_recoveries, master),
        "GetRecovery": partial(recoveries.get_recovery, master),
        "RestoreObjects": partial(backups.restore_objects, master),
        **backups.backup_functions(read),
        **foresight_functions(read, sources_of_master(master)),
    }


async def get_pool(read: Read, _: Any) -> Any:
    """The pool object."""
    view = await read()
    return pool_service_pb2.GetPoolResponse(
        pool=to_proto(view.state.pool), freshness=view.freshness()
    )


def master_handlers(master: Mastership, *, host: str) -> Handlers:
    """Every method, answered by the master. `host` is its name, for incidents."""

    async def read() -> View:
        return View(await master.fresh())

    async def cancel_task(request: Any) -> Any:
        task = await hosts.cancel_task(master, request)
        return task_service_pb2.CancelTaskResponse(task=to_proto(task))

    own: dict[str, dict[str, Callable[..., Any]]] = {
        "PoolService": _pool_functions(master, read),
        "HostService": {
            "UpdateHost": partial(writes.update_host, master),
            "DeclareHostDead": partial(hosts.declare_host_dead, master),
            "CheckForgetHost": partial(hosts.check_forget_host, master),
            "ForgetHost": partial(hosts.forget_host, master),
            "SetMaintenance": partial(hosts.set_maintenance, master),
        },
        "TaskService": {"CancelTask": cancel_task},
        "LockService": {
            "AcquireLock": partial(locks.acquire_lock, master),
            "RenewLock": partial(locks.renew_lock, master),
            "ReleaseLock": partial(locks.release_lock, master),
        },
        "EventService": {"Watch": partial(watch, master)},
        "MemberService": {"Session": master.sessions.serve},
    }
    found: Handlers = {}
    for service in SERVICES:
        functions = {
            **read_functions(service.name, read),
            **writes.update_functions(service.name, master),
            **own.get(service.name, {}),
        }
        found |= handlers(service, functions, host=host)
    return found


def replica_handlers(
    read: Read,
    status: Callable[[], Any],
    no_master: Callable[[], PoolError],
    sources: Sources,
    *,
    host: str,
) -> Handlers:
    """Every method at a host without a master: reads from its replica, the rest refused."""

    async def refuse(*_: Any) -> Any:
        raise no_master()

    async def get_status(_: Any) -> Any:
        return status()

    found: Handlers = {}
    for service in SERVICES:
        functions: dict[str, Callable[..., Any]] = {m.name: refuse for m in service.methods}
        functions |= read_functions(service.name, read)
        if service.name == "PoolService":
            functions |= {"GetPool": partial(get_pool, read), "GetStatus": get_status}
            functions |= backups.backup_functions(read) | foresight_functions(read, sources)
        found |= handlers(service, functions, host=host)
    return found


def session_handlers(serve: Callable[[Requests, Send], Awaitable[None]], *, host: str) -> Handlers:
    """For a host that is not the master, and looks at what members say of themselves."""
    service = member_service_pb2.DESCRIPTOR.services_by_name["MemberService"]
    return handlers(service, {"Session": serve}, host=host)


def not_master(master: str) -> PoolError:
    """The refusal of a call that was passed on to a host that is not the master."""
    return PoolError(Reason.HOST_IS_SLAVE, master=master)
