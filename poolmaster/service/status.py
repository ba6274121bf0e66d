"""What `pool status` shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set

from poolcore.errors import PoolError
from poolcore.model import VM, Host, HostId, HostMetrics, PowerState
from poolcore.replica import Head, State
from poolcore.wire.codec import to_proto
from poolmanager.v1 import pool_service_pb2 as pb
from poolmaster.decide.voters import majority
from poolmaster.mastership import Mastership
from poolmaster.service.reads import View
from poolmaster.store import urls

VMS_NAMED = 10
"""So many VMs a warning names."""


def status_of_master(master: Mastership) -> pb.GetStatusResponse:
    """The status as the master knows it."""
    state, head = master.state, master.ledger.head
    # Where a second copy is to be kept, a host is in step when the chain says so.
    alone = master.in_step is not None and state.pool.in_step is None and len(_ordered(state)) > 1
    dead = _declared_dead(state)
    hosts = []
    for host in _ordered(state):
        session = master.sessions.get(host.uuid)
        applied = session.applied if session is not None else 0
        hosts.append(
            pb.HostStatus(
                uuid=host.uuid,
                name=host.name_label,
                address=host.address,
                role=_role(host, head.master),
                enabled=host.enabled,
                live=session is not None,
                in_step=session is not None and applied >= head.revision and not alone,
                applied_revision=applied,
                lag_seconds=master.sessions.lag_seconds(session) if session is not None else 0.0,
                declared_dead=host.uuid in dead,
            )
        )
    return _status(
        View(state),
        head,
        master.store.engine,
        hosts,
        _warnings(master, state),
        shared=master.shared_store is not None,
        durable_on=_durable_on(master, state),
    )


def status_of_replica(
    view: View,
    master: str | None,
    term: int,
    *,
    store: str | None,
    host: HostId,
    problem: str,
    refusal: PoolError | None = None,
) -> pb.GetStatusResponse:
    """The status as `host`, which has no master, last knew it; `master` is the last one's uuid.

    `store`: the URL of the store that it shares with others, if it does. `problem` says why it has
    no master, `refusal` why it looks for none.
    """
    state, dead = view.state, _declared_dead(view.state)
    hosts = [
        pb.HostStatus(
            uuid=host.uuid,
            name=host.name_label,
            address=host.address,
            role=_role(host, master),
            enabled=host.enabled,
            live=False,
            in_step=False,
            applied_revision=0,
            lag_seconds=0.0,
            declared_dead=host.uuid in dead,
        )
        for host in _ordered(state)
    ]
    shared = store is not None
    warning = _no_master(state, host, problem, shared=shared)
    if refusal is not None:
        warning = pb.Warning(code=refusal.reason, message=refusal.message, remedy=refusal.remedy)
    head = Head(state.incarnation, term, state.revision, master or "")  # type: ignore[arg-type]
    in_etcd = state.pool.voters is not None or (
        store is not None and bool(urls.etcd_addresses(store))
    )
    engine = "etcd" if in_etcd else "sqlite"
    found = _status(view, head, engine, hosts, [warning], shared=shared)
    # As far as this host can tell the pool does not write now.
    found.quorum.survives = 0
    return found


def _no_master(state: State, host: HostId, problem: str, *, shared: bool) -> pb.Warning:
    remedy = "Start the master's daemon, or check the network between the hosts."
    own, voters = state.get(Host, host), state.pool.voters
    alone = not shared or voters is not None
    if alone and own is not None and not own.witness and len(_ordered(state)) > 1:
        lost, it = "the master is lost and", "it"
        if voters is not None:
            lost, it = "too many of them are lost for good, and", "them"
        remedy = (
            "Start the daemons of the other hosts, or check the network to them. If "
            f"{lost} certainly off, this host can go on without {it}: "
            f"`pool --server {own.address} emergency-transition-to-master` shows first what that "
            "would lack."
        )
    return pb.Warning(
        code="NO_MASTER",
        message=f"This host has no connection to the master: {problem.rstrip('.')}. "
        "What it shows may be old.",
        remedy=remedy,
    )


def _durable_on(master: Mastership, state: State) -> list[HostId]:
    """Who has every acknowledged change, where the store is at the master alone."""
    if master.shared_store is not None:
        return []
    second = state.get(Host, state.pool.in_step)
    return [master.host] if second is None else [master.host, second.uuid]


def _role(host: Host, master: str | None) -> pb.Role.ValueType:
    # A witness that waits to be taken in is the master of its pool of one.
    if host.uuid == master:
        return pb.ROLE_MASTER
    return pb.ROLE_WITNESS if host.witness else pb.ROLE_MEMBER


def _quorum(state: State, *, shared: bool, live: Set[str]) -> pb.Quorum:
    """`live`: uuids of the hosts that are known to be."""
    voters = state.pool.voters
    if voters is not None:
        needed = majority(voters)
        up = sum(uuid in live for uuid in voters.hosts)
        able = sum(h.may_lead and h.uuid in live for h in state.all(Host))
        survives = max(min(up - needed, able - 1), 0)
        return pb.Quorum(voters=len(voters.hosts), needed=needed, survives=survives)
    if shared:
        # Any one of those that may lead and reaches the store can, with the others or without;
        # but the hosts that are left may be just those that may not.
        number = sum(1 for _ in state.all(Host))
        survives = max(sum(host.may_lead for host in state.all(Host)) - 1, 0)
        return pb.Quorum(voters=number, needed=number - survives, survives=survives)
    # The store is at the master: it alone has to be up, and nobody else can stand in for it.
    return pb.Quorum(voters=1, needed=1, survives=0)


def _status(
    view: View,
    head: Head,
    engine: str,
    hosts: list[pb.HostStatus],
    warnings: list[pb.Warning],
    *,
    shared: bool,
    durable_on: Sequence[HostId] = (),
) -> pb.GetStatusResponse:
    pool = view.state.pool
    return pb.GetStatusResponse(
        pool_uuid=pool.uuid,
        pool_name=pool.name_label,
        head=to_proto(head),
        engine=engine,
        quorum=_quorum(view.state, shared=shared, live={h.uuid for h in hosts if h.live}),
        hosts=hosts,
        warnings=warnings,
        freshness=view.freshness(),
        durable_on=durable_on,
    )


def _declared_dead(state: State) -> set[HostId]:
    return {m.host for m in state.all(HostMetrics) if m.declared_dead}


def _ordered(state: State) -> list[Host]:
    return sorted(state.all(Host), key=lambda h: (h.name_label, h.uuid))


def _second_copy(state: State) -> list[pb.Warning]:
    """What follows from the store being at the master alone."""
    host = state.get(Host, state.pool.in_step)
    if host is None:
        return [
            pb.Warning(
                code="REPLICA_OUT_OF_STEP",
                message="No other host has every change: what is acknowledged now is on the "
                "master's disk alone.",
                remedy="Start poolmember on the other hosts, or look into their logs; a host comes "
                "back into step by itself.",
            )
        ]
    if host.witness:
        return [
            pb.Warning(
                code="NO_SPARE",
                message="No other host could become master. Nothing that was acknowledged is lost "
                f"with the master, as the witness {host.name_label} has it too.",
                remedy="Start a host that is no witness, or take one in.",
            )
        ]
    return [
        pb.Warning(
            code="FAILOVER_NEEDS_A_PERSON",
            message="No host takes over by itself from a master that is lost. Nothing that was "
            f"acknowledged is lost with it: {host.name_label} has it too.",
            remedy="Should the master be lost: make sure that it is off, then "
            f"`pool --server {host.address} emergency-transition-to-master --yes`.",
        )
    ]


def _warnings(master: Mastership, state: State) -> list[pb.Warning]:
    warnings = [
        pb.Warning(code=w.code, message=w.message, remedy=w.remedy) for w in master.store_warnings
    ]
    hosts = _ordered(state)
    if len(hosts) > 1 and master.shared_store is None:
        warnings += _second_copy(state)
    live = {m.host for m in state.all(HostMetrics) if m.live}
    dead = _declared_dead(state)
    warnings += [
        pb.Warning(
            code="HOST_OFFLINE",
            message=f"{host.name_label} is not connected to the master.",
            remedy=f"Start poolmember there, or check the network to {host.address}.",
        )
        for host in hosts
        if master.sessions.get(host.uuid) is None and host.uuid not in live | dead
    ]
    warnings += [
        pb.Warning(
            code="HOST_DECLARED_DEAD",
            message=f"{host.name_label} was declared dead.",
            remedy=f"`pool host forget {host.name_label}` takes it out of the pool; if it can be "
            "repaired, start poolmember there again.",
        )
        for host in hosts
        if host.uuid in dead
    ]
    warnings += _unknown_vms(state)
    warnings += _maintenance_warnings(state, hosts, master.host)
    if state.host(master.host).witness and state.pool.reservation is None:
        warnings.append(
            pb.Warning(
                code="WITNESS_ALONE",
                message="This host is a witness and in no pool with others: it waits to be taken "
                "in, and takes nobody in itself.",
                remedy="Run `pool add-host` with this host's address, asking a host of the pool.",
            )
        )
    if state.pool.reservation is not None:
        name = state.pool.reservation.pool_name
        warnings.append(
            pb.Warning(
                code="POOL_RESERVED",
                message=f"This host is joining pool {name} and takes no changes until that ends.",
                remedy="Wait; if that pool is gone for good, `poolmember reset` abandons the join.",
            )
        )
    return warnings


def _unknown_vms(state: State) -> list[pb.Warning]:
    names = {host.uuid: host.name_label for host in state.all(Host)}
    unknown = [vm for vm in state.all(VM) if vm.power_state is PowerState.UNKNOWN]
    if not unknown:
        return []
    hosts = ", ".join(sorted({names.get(vm.resident_on, "") for vm in unknown if vm.resident_on}))
    return [
        pb.Warning(
            code="VMS_UNKNOWN",
            message=f"It is not known whether VMs run on {hosts}: {len(unknown)} of them.",
            remedy="Start poolmember there. If such a host is off for good, "
            "`pool host declare-dead HOST` says so, and its VMs can be started elsewhere.",
        )
    ]


def _maintenance_warnings(
    state: State, hosts: Iterable[Host], master: HostId
) -> Iterator[pb.Warning]:
    for host in hosts:
        if host.enabled:
            continue
        role = "the master, and " if host.uuid == master else ""
        message = f"{host.name_label} is {role}in maintenance."
        names = sorted(vm.name_label for vm in _running_on(state, host.uuid))
        if names:
            shown = ", ".join(names[:VMS_NAMED]) + (" …" if len(names) > VMS_NAMED else "")
            message += f" VMs that run on it: {len(names)} ({shown})."
        yield pb.Warning(
            code="HOST_IN_MAINTENANCE",
            message=message,
            remedy=(
                "Migrate or shut down its VMs before the host is switched off. " if names else ""
            )
            + f"`pool host maintenance {host.name_label} --off` ends the maintenance.",
        )


def _running_on(state: State, host: HostId) -> Iterator[VM]:
    """The VMs that the host has in memory."""
    there = (PowerState.RUNNING, PowerState.PAUSED)
    return (v for v in state.all(VM) if v.resident_on == host and v.power_state in there)
