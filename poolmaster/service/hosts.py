"""Hosts coming and going, leading and resting: the requests that start, check and ask about it."""

from __future__ import annotations

import ipaddress
import re
import uuid
from typing import TypeVar

from poolcore.facts import HostFacts
from poolcore.model import VM, Finding, Host, HostMetrics, Kind, Object, Task, TaskId
from poolcore.replica import Put, Remove
from poolcore.wire.codec import enum_to_proto, to_proto
from poolmanager.v1 import host_service_pb2 as host_pb
from poolmanager.v1 import pool_service_pb2 as pb
from poolmanager.v1 import task_service_pb2 as task_pb
from poolmaster.decide.gone import forgotten
from poolmaster.decide.holdings import metrics_of
from poolmaster.decide.preflight import preflight, takes_hosts_in
from poolmaster.decide.selection import select
from poolmaster.decide.update import invalid
from poolmaster.ledger import Outcome
from poolmaster.mastership import Mastership
from poolmaster.operations.join import join_outcome, refusal
from poolmaster.operations.steps import running
from poolmaster.service.reads import View
from poolmaster.service.writes import changed_object, request_of

T = TypeVar("T", bound=Object)

DEFAULT_PORT = 7443
HISTORY = frozenset({Kind.TASK, Kind.MESSAGE})
"""What is pruned with other changes, and is no part of a host."""
HOST_NAME_LIMIT = 253
_LABELS = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")

OUTCOMES = {
    "pending": pb.JOIN_OUTCOME_PENDING,
    "committed": pb.JOIN_OUTCOME_COMMITTED,
    "aborted": pb.JOIN_OUTCOME_ABORTED,
}


def endpoint_of(address: str) -> str:
    """`host:port` of what a person typed: a name or IP address, with or without a port."""
    if not address:
        raise invalid("address", "is missing")
    host, port = _split(address)
    if not 1 <= port <= 65535:
        raise invalid("address", f"port {port} is not from 1 to 65535")
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        if len(host) > HOST_NAME_LIMIT or not _LABELS.fullmatch(host):
            problem = f"{host[:60]!a} is neither a host name nor an IP address"
            raise invalid("address", problem) from None
        return f"{host}:{port}"
    return f"[{literal}]:{port}" if literal.version == 6 else f"{literal}:{port}"


def _split(address: str) -> tuple[str, int]:
    if address.startswith("["):
        host, bracket, rest = address[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise invalid("address", "has an unfinished [IPv6]:port")
        port = rest[1:]
    elif address.count(":") > 1:
        host, port = address, ""
    else:
        host, _, port = address.partition(":")
        if address.endswith(":"):
            raise invalid("address", "has no port after the colon")
    if not port:
        return host, DEFAULT_PORT
    if not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise invalid("address", f"port {port[:20]!a} is not a number")
    return host, int(port)


async def _examine(
    master: Mastership, endpoint: str, *, force: bool
) -> tuple[HostFacts, tuple[Finding, ...]]:
    state = await master.fresh()
    takes_hosts_in(state.host(master.host))
    facts = await master.examiner.measured(endpoint)
    facts = await master.examiner.reachability(state, facts)
    facts = await master.examiner.same_store(facts, endpoint, master.shared_store, master.pool)
    votes = await master.examiner.would_vote(state, facts, store=master.shared_store)
    found = preflight(state, facts, master=master.host, would_vote=votes, force=force)
    return facts, found


async def check_host(master: Mastership, request: pb.CheckHostRequest) -> pb.CheckHostResponse:
    """Preflight only."""
    endpoint = endpoint_of(request.address)
    facts, findings = await _examine(master, endpoint, force=request.force)
    return pb.CheckHostResponse(
        host_uuid=facts.host,
        host_name=facts.name_label,
        findings=[to_proto(f) for f in findings],
        may_join=not any(f.blocks for f in findings),
    )


async def add_host(master: Mastership, request: pb.AddHostRequest) -> pb.AddHostResponse:
    """Check a host and start its join."""
    endpoint = endpoint_of(request.address)
    asked = request_of(request)
    # A request asked again finds its task; its host may be of the pool by now.
    first = await master.ledger.first_outcome(asked) if asked is not None else None
    if first is not None:
        task = master.operations.of_outcome(first)
        return pb.AddHostResponse(
            task=to_proto(task), findings=[to_proto(f) for f in task.findings]
        )
    # So does the same command given again: it goes on with the join that is under way.
    under_way = running(await master.fresh(), master.join.name, endpoint=endpoint)
    if under_way is not None:
        task = await master.operations.asked_again(under_way, asked)
        return pb.AddHostResponse(task=to_proto(task))
    facts, findings = await _examine(master, endpoint, force=request.force)
    if any(f.blocks for f in findings):
        raise refusal(facts, findings)
    begin = master.join.begin(
        master, TaskId(str(uuid.uuid4())), facts, endpoint, force=request.force
    )
    task = await master.operations.start(begin, request=asked)
    return pb.AddHostResponse(task=to_proto(task), findings=[to_proto(f) for f in findings])


async def eject_host(master: Mastership, request: pb.EjectHostRequest) -> pb.EjectHostResponse:
    """Start a host's departure."""
    asked = request_of(request)
    first = await master.ledger.first_outcome(asked) if asked is not None else None
    if first is not None:
        return pb.EjectHostResponse(task=to_proto(master.operations.of_outcome(first)))
    state = await master.fresh()
    # The same command given again, when the host is of the pool no longer.
    name = request.host
    under_way = running(state, master.eject.name, host=name, name=name)
    if under_way is not None:
        task = await master.operations.asked_again(under_way, asked)
        return pb.EjectHostResponse(task=to_proto(task))
    host = select(state, Host, name)
    await master.sessions.had_time(host.uuid)
    begin = master.eject.begin(master, TaskId(str(uuid.uuid4())), host)
    task = await master.operations.start(begin, request=asked)
    return pb.EjectHostResponse(task=to_proto(task))


async def declare_host_dead(
    master: Mastership, request: host_pb.DeclareHostDeadRequest
) -> host_pb.DeclareHostDeadResponse:
    """Record that a host is off for good."""
    asked = request_of(request)
    outcome = await master.ledger.first_outcome(asked) if asked is not None else None
    if outcome is None:
        host = select(await master.fresh(), Host, request.host)
        await master.gone.ensure_silent(host)
        outcome = await master.write(master.gone.declare_dead(master, host.uuid), request=asked)
    metrics = changed_object(outcome, HostMetrics)
    return host_pb.DeclareHostDeadResponse(
        host_metrics=metrics.host_metrics if metrics is not None else None,
        vms=[to_proto(vm) for vm in _puts(outcome, VM)],
        revision=outcome.revision,
        incarnation=master.state.incarnation.uuid,
    )


async def check_forget_host(
    master: Mastership, request: host_pb.CheckForgetHostRequest
) -> host_pb.CheckForgetHostResponse:
    """What would go with a host that is forgotten."""
    view = View(await master.fresh())
    host = select(view.state, Host, request.host)
    await master.gone.ensure_silent(host)
    found = forgotten(view.state, host.uuid, now=master.now())
    metrics = metrics_of(view.state, host.uuid)
    return host_pb.CheckForgetHostResponse(
        host=to_proto(host),
        declared_dead=metrics is not None and metrics.declared_dead,
        removed=[_named(obj) for obj in found.removed if obj.uuid != host.uuid],
        kept=[_named(vm) for vm in found.kept],
        freshness=view.freshness(),
    )


async def forget_host(
    master: Mastership, request: host_pb.ForgetHostRequest
) -> host_pb.ForgetHostResponse:
    """Remove a host that is gone for good, with what only it had."""
    asked = request_of(request)
    outcome = await master.ledger.first_outcome(asked) if asked is not None else None
    if outcome is None:
        host = select(await master.fresh(), Host, request.host)
        await master.gone.ensure_silent(host)
        decide = master.gone.forget(master, host.uuid, vouched=request.vouched)
        outcome = await master.write(decide, request=asked)
    changes = outcome.delta.changes if outcome.delta is not None else ()
    removed = [c for c in changes if isinstance(c, Remove) and c.kind not in HISTORY]
    return host_pb.ForgetHostResponse(
        host=next((c.uuid for c in removed if c.kind is Kind.HOST), None),
        removed=len(removed) - 1,
        revision=outcome.revision,
        incarnation=master.state.incarnation.uuid,
    )


def _puts(outcome: Outcome, cls: type[T]) -> list[T]:
    """The objects of a class that a commit put."""
    changes = outcome.delta.changes if outcome.delta is not None else ()
    return [c.object for c in changes if isinstance(c, Put) and isinstance(c.object, cls)]


def _named(obj: Object) -> host_pb.NamedObject:
    return host_pb.NamedObject(
        kind=enum_to_proto(obj.KIND), uuid=obj.uuid, name_label=getattr(obj, "name_label", None)
    )


async def designate_master(
    master: Mastership, request: pb.DesignateMasterRequest
) -> pb.DesignateMasterResponse:
    """Start handing the mastership over."""
    asked = request_of(request)
    first = await master.ledger.first_outcome(asked) if asked is not None else None
    if first is not None:
        return pb.DesignateMasterResponse(task=to_proto(master.operations.of_outcome(first)))
    host = select(await master.fresh(), Host, request.host)
    await master.sessions.had_time(host.uuid)
    begin = master.designate.begin(master, TaskId(str(uuid.uuid4())), host.uuid)
    task = await master.operations.start(begin, request=asked)
    return pb.DesignateMasterResponse(task=to_proto(task))


async def drill_failover(
    master: Mastership, request: pb.DrillFailoverRequest
) -> pb.DrillFailoverResponse:
    """Have this mastership end the hard way, or see whether that would be safe."""
    asked = request_of(request)
    first = await master.ledger.first_outcome(asked) if asked is not None else None
    if first is not None:
        return pb.DrillFailoverResponse(task=to_proto(master.operations.of_outcome(first)))
    successor = to_proto(master.drill.check(await master.fresh()))
    if not request.consent:
        return pb.DrillFailoverResponse(next_master=successor)
    begin = master.drill.begin(master, TaskId(str(uuid.uuid4())), term=request.term)
    task = await master.operations.start(begin, request=asked)
    return pb.DrillFailoverResponse(task=to_proto(task), next_master=successor)


async def set_maintenance(
    master: Mastership, request: host_pb.SetMaintenanceRequest
) -> host_pb.SetMaintenanceResponse:
    """Start a maintenance, or end one."""
    asked = request_of(request)
    first = await master.ledger.first_outcome(asked) if asked is not None else None
    if first is not None:
        return host_pb.SetMaintenanceResponse(task=to_proto(master.operations.of_outcome(first)))
    if not request.HasField("maintenance"):
        raise invalid("maintenance", "is missing")
    state, new = await master.fresh(), TaskId(str(uuid.uuid4()))
    host = select(state, Host, request.host).uuid
    if request.maintenance:
        await master.maintenance.known(state, host)
        decide = master.maintenance.begin(master, new, host, force=request.force)
    else:
        decide = master.maintenance.finish(master, new, host)
    task = await master.operations.start(decide, request=asked)
    return host_pb.SetMaintenanceResponse(task=to_proto(task))


async def get_join(master: Mastership, request: pb.GetJoinRequest) -> pb.GetJoinResponse:
    """How a join ended."""
    state = await master.fresh()
    outcome = join_outcome(state, request.task, request.host)
    return pb.GetJoinResponse(outcome=OUTCOMES[outcome], pool=master.pool)


async def cancel_task(master: Mastership, request: task_pb.CancelTaskRequest) -> Task:
    """Ask a task to stop."""
    task = select(await master.fresh(), Task, request.task)
    return await master.operations.cancel(task.uuid, request=request_of(request))
