"""Hosts that are gone for good: declaring them dead, and forgetting them."""

from __future__ import annotations

from dataclasses import dataclass

from poolclient._core import Core
from poolclient._writes import new_request_id
from poolcore.model import VM, Host, HostMetrics, Kind
from poolcore.wire.codec import enum_from_proto, from_proto
from poolmanager.v1 import host_service_pb2 as pb

ASKING_TIMEOUT_SECONDS = 30.0
"""The time limit when none is given: the master makes sure that the host does not answer."""


@dataclass(frozen=True, slots=True)
class NamedObject:
    """An object as it is spoken of; `name_label` is empty if it has none."""

    kind: Kind
    uuid: str
    name_label: str


@dataclass(frozen=True, slots=True)
class DeadHost:
    """A host that counts as dead; `vms` count as halted since, on no host."""

    metrics: HostMetrics | None
    """None: the answer to a repeated request that is too old for it."""
    vms: tuple[VM, ...]
    revision: int
    incarnation: str


@dataclass(frozen=True, slots=True)
class ForgetPreview:
    """What would become of the pool if a host were forgotten."""

    host: Host
    declared_dead: bool
    removed: tuple[NamedObject, ...]
    """What would go with it."""
    kept: tuple[NamedObject, ...]
    """Its VMs that would stay, halted and on no host."""


@dataclass(frozen=True, slots=True)
class ForgottenHost:
    """A host that is of the pool no more, and how many objects have gone with it."""

    uuid: str
    removed: int
    revision: int
    incarnation: str


async def declare_dead(
    core: Core, host: str, *, timeout_seconds: float | None, request_id: str | None
) -> DeadHost:
    """See `HostCollection.declare_dead`."""
    deadline = core.deadline(timeout_seconds or ASKING_TIMEOUT_SECONDS)
    request = pb.DeclareHostDeadRequest(
        request_id=request_id or new_request_id(core.transport), host=host
    )
    answer = await core.transport.write(
        lambda c: c.host.DeclareHostDead, request, deadline, request.request_id
    )
    await core.transport.written(answer.incarnation, answer.revision, deadline)
    return DeadHost(
        metrics=from_proto(answer.host_metrics) if answer.HasField("host_metrics") else None,
        vms=tuple(map(from_proto, answer.vms)),
        revision=answer.revision,
        incarnation=answer.incarnation,
    )


async def check_forget(core: Core, host: str, *, timeout_seconds: float | None) -> ForgetPreview:
    """See `HostCollection.check_forget`."""
    answer, _ = await core.transport.read(
        lambda c: c.host.CheckForgetHost,
        pb.CheckForgetHostRequest(host=host),
        core.deadline(timeout_seconds or ASKING_TIMEOUT_SECONDS),
    )
    return ForgetPreview(
        host=from_proto(answer.host),
        declared_dead=answer.declared_dead,
        removed=tuple(map(_named, answer.removed)),
        kept=tuple(map(_named, answer.kept)),
    )


async def forget(
    core: Core,
    host: str,
    *,
    vouched: bool,
    timeout_seconds: float | None,
    request_id: str | None,
) -> ForgottenHost:
    """See `HostCollection.forget`."""
    deadline = core.deadline(timeout_seconds or ASKING_TIMEOUT_SECONDS)
    request = pb.ForgetHostRequest(
        request_id=request_id or new_request_id(core.transport), host=host, vouched=vouched
    )
    answer = await core.transport.write(
        lambda c: c.host.ForgetHost, request, deadline, request.request_id
    )
    await core.transport.written(answer.incarnation, answer.revision, deadline)
    return ForgottenHost(answer.host, answer.removed, answer.revision, answer.incarnation)


def _named(message: pb.NamedObject) -> NamedObject:
    return NamedObject(enum_from_proto(Kind, message.kind), message.uuid, message.name_label)
