"""The administrative updates: one by one, and several in a call."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from poolcore.errors import PoolError
from poolcore.model import CLASSES, SR, VDI, VM, Described, Host, Kind, Network, Object, Pool
from poolcore.replica import Put, State
from poolcore.wire.codec import (
    MalformedMessage,
    enum_from_proto,
    object_to_proto,
    parse,
    serialize,
)
from poolmanager.v1 import (
    chain_pb2,
    host_service_pb2,
    network_service_pb2,
    patch_pb2,
    pool_service_pb2,
    resources_pb2,
    storage_service_pb2,
    vm_service_pb2,
)
from poolmaster.decide.selection import select
from poolmaster.decide.update import (
    MetadataPatch,
    invalid,
    limited,
    patched,
    prioritized,
    scheduled,
    timed,
)
from poolmaster.ledger import Decide, Decision, Outcome, PendingWrite, Request
from poolmaster.mastership import Mastership

BATCH_ITEMS = 1_000

_UPDATED: dict[str, tuple[tuple[type[Described], Any, str, str], ...]] = {
    "StorageService": (
        (SR, storage_service_pb2, "sr", "Sr"),
        (VDI, storage_service_pb2, "vdi", "Vdi"),
    ),
    "NetworkService": ((Network, network_service_pb2, "network", "Network"),),
    "VMService": ((VM, vm_service_pb2, "vm", "Vm"),),
}


def request_of(message: Any) -> Request | None:
    """A write's request id and the hash of everything else it says; none if it has no id."""
    if not message.HasField("request_id"):
        return None
    payload = type(message)()
    payload.CopyFrom(message)
    payload.ClearField("request_id")
    digest = hashlib.sha256(type(message).DESCRIPTOR.full_name.encode())
    digest.update(serialize(payload))
    return Request(message.request_id, digest.digest())


def patch_of(message: patch_pb2.MetadataPatch) -> MetadataPatch:
    """The patch in a message."""
    return MetadataPatch(
        name_label=message.name_label if message.HasField("name_label") else None,
        name_description=(
            message.name_description if message.HasField("name_description") else None
        ),
        add_tags=frozenset(message.add_tags),
        remove_tags=frozenset(message.remove_tags),
        set_other_config=dict(message.set_other_config),
        remove_other_config=frozenset(message.remove_other_config),
    )


def patching(
    cls: type[Described], name: str | None, patch: MetadataPatch, *, asked: Request | None
) -> Decide:
    """The decision that patches the object of that name; the pool object needs none."""

    def decide(state: State) -> Decision:
        before: Described = state.pool if cls is Pool else select(state, cls, name or "")
        return _decision(before, patched(before, patch), asked)

    return decide


def _decision(before: Described, after: Described, asked: Request | None) -> Decision:
    # With a request id it is written even if it is the same: the commit is where a repeated
    # request finds the object as it was then.
    write = after != before or asked is not None
    return Decision((Put(after),) if write else (), result=after)


def changed_object(outcome: Outcome, cls: type[Object]) -> resources_pb2.Object | None:
    """The object as of the commit, also when the request is repeated."""
    if outcome.data is None:
        return None if outcome.result is None else object_to_proto(outcome.result)
    # It is in there as it was encoded for the store; encoding it again would take longer.
    puts = (change.put for change in parse(chain_pb2.Delta, outcome.data).changes)
    return next((put for put in puts if put.WhichOneof("object") == cls.KIND), None)


def update_functions(
    service: str, master: Mastership
) -> dict[str, Callable[[Any], Awaitable[Any]]]:
    """`Update…` of every class of a service."""
    return {
        f"Update{one}": _updater(cls, messages, field, one, master)
        for cls, messages, field, one in _UPDATED.get(service, ())
    }


def _updater(
    cls: type[Described], messages: Any, field: str, one: str, master: Mastership
) -> Callable[[Any], Awaitable[Any]]:
    response = getattr(messages, f"Update{one}Response")

    async def update(request: Any) -> Any:
        asked = request_of(request)
        decide = patching(cls, getattr(request, field), patch_of(request.patch), asked=asked)
        outcome = await master.write(decide, request=asked)
        found = changed_object(outcome, cls)
        return response(
            **{field: getattr(found, cls.KIND) if found is not None else None},
            revision=outcome.revision,
            incarnation=master.state.incarnation.uuid,
        )

    return update


async def update_host(
    master: Mastership, request: host_service_pb2.UpdateHostRequest
) -> host_service_pb2.UpdateHostResponse:
    """Change a host's metadata and its priority when a master is chosen."""
    patch, asked = patch_of(request.patch), request_of(request)

    def decide(state: State) -> Decision:
        before = select(state, Host, request.host)
        after = patched(before, patch)
        if request.HasField("failover_priority"):
            after = prioritized(after, request.failover_priority)
        return _decision(before, after, asked)

    outcome = await master.write(decide, request=asked)
    found = changed_object(outcome, Host)
    return host_service_pb2.UpdateHostResponse(
        host=found.host if found is not None else None,
        revision=outcome.revision,
        incarnation=master.state.incarnation.uuid,
    )


async def update_pool(
    master: Mastership, request: pool_service_pb2.UpdatePoolRequest
) -> pool_service_pb2.UpdatePoolResponse:
    """Change the pool's own settings."""
    patch, asked = patch_of(request.patch), request_of(request)

    def decide(state: State) -> Decision:
        before = state.pool
        after = patched(before, patch)
        if request.HasField("default_sr"):
            name = request.default_sr
            after = replace(after, default_sr=select(state, SR, name).uuid if name else None)
        if request.HasField("host_limit"):
            after = limited(after, request.host_limit)
        asked_for = {field.name: value for field, value in request.failover.ListFields()}
        backup = {field.name: value for field, value in request.backup.ListFields()}
        after = replace(
            after,
            failover=timed(after.failover, asked_for),
            backup=scheduled(after.backup, backup),
        )
        return _decision(before, after, asked)

    outcome = await master.write(decide, request=asked)
    found = changed_object(outcome, Pool)
    return pool_service_pb2.UpdatePoolResponse(
        pool=found.pool if found is not None else None,
        revision=outcome.revision,
        incarnation=master.state.incarnation.uuid,
    )


async def batch_update(
    master: Mastership, request: pool_service_pb2.BatchUpdateRequest
) -> pool_service_pb2.BatchUpdateResponse:
    """Several updates, each with its own outcome."""
    if len(request.items) > BATCH_ITEMS:
        raise invalid("items", f"are {len(request.items)}, at most {BATCH_ITEMS} are allowed")
    begun = [_begun(master, item) for item in request.items]
    # All at once, so that a call that is cancelled cancels them all. A task for each would cost
    # more than deciding it.
    writes = [update for update in begun if isinstance(update, PendingWrite)]
    await asyncio.gather(*(write.answer for write in writes), return_exceptions=True)
    outcomes = [
        await _ended(master, update, i.kind) for update, i in zip(begun, request.items, strict=True)
    ]
    return pool_service_pb2.BatchUpdateResponse(outcomes=outcomes)


def _begun(master: Mastership, item: pool_service_pb2.UpdateItem) -> PendingWrite | PoolError:
    try:
        asked = request_of(item)
        patch = patch_of(item.patch)
        decide = patching(_described(item.kind), item.object, patch, asked=asked)
        return master.submit(decide, request=asked)
    except PoolError as error:
        return error


async def _ended(
    master: Mastership, update: PendingWrite | PoolError, kind: int
) -> pool_service_pb2.UpdateOutcome:
    try:
        if isinstance(update, PoolError):
            raise update
        outcome = await master.ledger.outcome(update)
    except PoolError as error:
        return pool_service_pb2.UpdateOutcome(
            error=pool_service_pb2.UpdateError(reason=error.reason, params=dict(error.params))
        )
    done = pool_service_pb2.Done(
        object=changed_object(outcome, _described(kind)),
        revision=outcome.revision,
        incarnation=master.state.incarnation.uuid,
    )
    return pool_service_pb2.UpdateOutcome(done=done)


def _described(number: int) -> type[Described]:
    try:
        cls = CLASSES[enum_from_proto(Kind, number)]
    except MalformedMessage as error:
        raise invalid("kind", str(error)) from error
    if not issubclass(cls, Described):
        raise invalid("kind", f"{cls.KIND} objects have nothing to update")
    return cls
