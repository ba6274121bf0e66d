"""What the loss of hosts would come to: the next master, what is out of reach, what to do.

Pure, over the pool's metadata and a few facts of the moment. It tells what follows from these, not
what will happen: hosts may be lost one by one, and networks in parts.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace

from poolcore.model import (
    PBD,
    PIF,
    SR,
    VDI,
    VM,
    Host,
    HostId,
    HostMetrics,
    MasterRecord,
    Network,
    PowerState,
)
from poolcore.outlook import (
    HostRef,
    LostNetwork,
    LostSr,
    LostVdi,
    Outlook,
    StrandedVm,
    Warning,
)
from poolcore.replica import State
from poolmaster.decide.leadership import preference
from poolmaster.decide.voters import majority


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFacts:
    """What is known of the moment and not in the pool's metadata."""

    master: HostId | None
    """None when the pool has none, or nobody knows."""
    applied: Mapping[HostId, int]
    """The attached hosts, the master's among them: the revision that each has durably applied."""
    shared_store: bool
    """Whether every host reaches the pool's store, rather than the master alone."""


def last_known(state: State, *, shared_store: bool) -> LiveFacts:
    """The facts as a replica tells them: who was master last, and which hosts were live then."""
    newest = max(state.all(MasterRecord), key=lambda r: (r.incarnation, r.term), default=None)
    live = {m.host: state.revision for m in state.all(HostMetrics) if m.live}
    return LiveFacts(
        master=None if newest is None else newest.host, applied=live, shared_store=shared_store
    )


def candidates(state: State, facts: LiveFacts, *, without: Set[HostId]) -> list[Host]:
    """The hosts that could be the next master, the best first.

    Attached, no witness and of a priority above 0, in the order in which they would claim. With the
    store at the master nobody claims: a person goes on from the one in step first.
    """
    in_step = None if facts.shared_store else state.pool.in_step
    able = (
        host
        for host in state.all(Host)
        if host.uuid in facts.applied and host.uuid not in without and host.may_lead
    )
    return sorted(
        able,
        key=lambda h: (
            h.uuid != in_step,
            preference(
                revision=facts.applied[h.uuid],
                priority=h.failover_priority,
                host=h.uuid,
                in_maintenance=not h.enabled,
            ),
        ),
    )


def if_lost(state: State, lost: Set[HostId], facts: LiveFacts) -> Outlook:
    """What would be so without the hosts `lost`; with none of them, how things are."""
    able = candidates(state, facts, without=lost)
    present = state.get(Host, facts.master)
    stays = present is not None and present.uuid not in lost
    successor = present if stays else next(iter(able), None)
    spare = _spare_voters(state, lost)
    writes = (stays or (facts.shared_store and successor is not None)) and spare >= 0
    masters = {host.uuid for host in able} | ({present.uuid} if present and stays else set())
    srs = _srs(state, lost)
    outlook = Outlook(
        lost=tuple(_ref(host) for host in _hosts(state) if host.uuid in lost),
        master=_ref(present) if present else None,
        next_master=_ref(successor) if successor else None,
        writes=writes,
        # Whichever they are: with the store at the master, the next one lost may be just that.
        survives=min(len(masters) - 1, spare) if writes and facts.shared_store else 0,
        vms=_vms(state, lost),
        srs=srs,
        vdis=_vdis(state, {sr.uuid for sr in srs}),
        networks=_networks(state, lost),
    )
    return replace(outlook, warnings=tuple(_Case(state, lost, facts, outlook).warnings()))


def _spare_voters(state: State, lost: Set[HostId]) -> int:
    """How many more voters of the pool's own etcd may be lost; negative without a quorum."""
    voters = state.pool.voters
    if voters is None:
        return sum(1 for _ in state.all(Host))
    return len(set(voters.hosts) - lost) - majority(voters)


# -- what would be out of reach -------------------------------------------------------------------


def _hosts(state: State) -> list[Host]:
    return sorted(state.all(Host), key=lambda h: (h.name_label, h.uuid))


def _ref(host: Host) -> HostRef:
    return HostRef(uuid=host.uuid, name_label=host.name_label)


def _vms(state: State, lost: Set[HostId]) -> tuple[StrandedVm, ...]:
    there = (vm for vm in state.all(VM) if vm.resident_on in lost)
    return tuple(
        StrandedVm(
            uuid=vm.uuid,
            name_label=vm.name_label,
            power_state=vm.power_state,
            resident_on=vm.resident_on,
        )
        for vm in sorted(there, key=lambda v: (v.name_label, v.uuid))
        if vm.resident_on is not None
    )


def _srs(state: State, lost: Set[HostId]) -> tuple[LostSr, ...]:
    """SRs that a lost host was connected to, and that no remaining host could reach.

    A local SR is the host's own, attached at the moment or not.
    """
    had = {pbd.sr for pbd in state.all(PBD) if pbd.host in lost and pbd.currently_attached}
    had |= {
        pbd.sr
        for pbd in state.all(PBD)
        if pbd.host in lost and (sr := state.get(SR, pbd.sr)) and not sr.shared
    }
    have = {pbd.sr for pbd in state.all(PBD) if pbd.host not in lost and pbd.currently_attached}
    gone = (sr for sr in state.all(SR) if sr.uuid in had - have)
    return tuple(
        LostSr(uuid=sr.uuid, name_label=sr.name_label, type=sr.type, shared=sr.shared)
        for sr in sorted(gone, key=lambda s: (s.name_label, s.uuid))
    )


def _vdis(state: State, srs: Set[str]) -> tuple[LostVdi, ...]:
    gone = (vdi for vdi in state.all(VDI) if vdi.sr in srs)
    return tuple(
        LostVdi(uuid=vdi.uuid, name_label=vdi.name_label, sr=vdi.sr)
        for vdi in sorted(gone, key=lambda v: (v.name_label, v.uuid))
    )


def _networks(state: State, lost: Set[HostId]) -> tuple[LostNetwork, ...]:
    had = {pif.network for pif in state.all(PIF) if pif.host in lost}
    have = {pif.network for pif in state.all(PIF) if pif.host not in lost}
    gone = (network for network in state.all(Network) if network.uuid in had - have)
    return tuple(
        LostNetwork(uuid=network.uuid, name_label=network.name_label)
        for network in sorted(gone, key=lambda n: (n.name_label, n.uuid))
    )


# -- what to do -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Case:
    state: State
    lost: Set[HostId]
    facts: LiveFacts
    outlook: Outlook

    def warnings(self) -> Iterator[Warning]:
        """What should be done before or after, the most urgent first."""
        yield from self._mastership()
        yield from self._offline()
        yield from self._guests()

    def _remaining(self) -> list[Host]:
        return [host for host in _hosts(self.state) if host.uuid not in self.lost]

    def _name(self, host: Host | HostRef) -> str:
        """How a command names the host: by its name, unless another has that too."""
        alike = [h for h in self.state.all(Host) if h.name_label == host.name_label]
        return shlex.quote(host.name_label) if len(alike) == 1 else host.uuid

    def _mastership(self) -> Iterator[Warning]:
        outlook, remaining = self.outlook, self._remaining()
        successor = outlook.next_master
        if not remaining:
            yield Warning(
                code="NO_HOST_LEFT",
                message="No host of the pool would be left.",
                remedy="Leave at least one host, better two, running.",
            )
        elif successor is None:
            yield self._nobody(remaining)
        elif not outlook.writes:
            yield self._needs_a_person(successor)
        elif successor != outlook.master:
            name = self._name(successor)
            yield Warning(
                code="MASTER_CHANGES",
                message=f"{successor.name_label} would become master by itself.",
                remedy=f"If the loss is planned, run `pool designate-master {name}` before: "
                "no call fails then.",
            )
        if outlook.writes and not outlook.survives and len(remaining) > 1:
            yield self._no_spare()

    def _nobody(self, remaining: list[Host]) -> Warning:
        leaders = [host for host in remaining if not host.witness]
        never = [host for host in leaders if host.uuid in self.facts.applied]
        if not leaders:
            remedy = "Leave a host running that is no witness: a witness votes and never leads."
        elif never:
            remedy = f"`pool host set {self._name(never[0])} failover_priority=100` lets it."
        else:
            name = self._name(leaders[0])
            act = (
                f"`pool designate-master {name}`"
                if self.facts.shared_store
                else f"`pool --server {leaders[0].address} emergency-transition-to-master`"
            )
            remedy = f"Start poolmember on {leaders[0].name_label}, then run {act}."
        return Warning(
            code="NO_CANDIDATE",
            message="None of the remaining hosts could become master: "
            + ", ".join(f"{host.name_label} {self._why_not(host)}" for host in remaining)
            + ".",
            remedy=remedy,
        )

    def _why_not(self, host: Host) -> str:
        if host.witness:
            return "is a witness"
        return "may never be" if host.uuid in self.facts.applied else "is not connected"

    def _needs_a_person(self, successor: HostRef) -> Warning:
        where = self.outlook.master.name_label if self.outlook.master else "its master"
        kept, complete = self._second_copy(successor)
        address = self.state.host(successor.uuid).address
        loss = "" if complete else " --accept-loss"
        return Warning(
            code="FAILOVER_NEEDS_A_PERSON",
            message=f"The pool's store is at {where} alone: without it nothing can be changed, and "
            f"no other host takes over by itself. {kept}",
            remedy=f"If {where} cannot be brought back: make sure that it is off, then "
            f"`pool --server {address} emergency-transition-to-master --yes{loss}`.",
        )

    def _second_copy(self, successor: HostRef) -> tuple[str, bool]:
        """What would be lost with the master, and whether the successor has everything."""
        second = self.state.get(Host, self.state.pool.in_step)
        if second is not None and second.uuid == successor.uuid:
            name = second.name_label
            return f"Nothing that was acknowledged would be lost: {name} has it too.", True
        newest = f"{successor.name_label} is at revision {self.facts.applied[successor.uuid]}"
        if second is None:
            return f"Later changes may be lost: no replica is in step, {newest}.", False
        if second.uuid in self.lost:
            text = f"Later changes may be lost: {second.name_label} alone had them too, {newest}."
        else:
            text = (
                f"Every acknowledged change is also at {second.name_label}, which is not "
                f"connected; {newest}."
            )
        return text, False

    def _no_spare(self) -> Warning:
        if self.facts.shared_store:
            return Warning(
                code="NO_SPARE",
                message="No further host may be lost then: none that is left could become master.",
                remedy="Connect the hosts that are away, and let those of failover_priority 0 be "
                "master with `pool host set HOST failover_priority=100`.",
            )
        where = self.outlook.next_master.name_label if self.outlook.next_master else "the master"
        return Warning(
            code="STORE_AT_MASTER",
            message=f"The pool's store is at {where} alone: without that host nothing can be "
            "changed until a person acts.",
            remedy=f"Keep the state directory of {where} safe; it has all that was acknowledged.",
        )

    def _offline(self) -> Iterator[Warning]:
        for host in self._remaining():
            if host.uuid not in self.facts.applied:
                yield Warning(
                    code="HOST_OFFLINE",
                    message=f"{host.name_label} is not connected, so it does not count.",
                    remedy=f"Start poolmember there, or check the network to {host.address}.",
                )

    def _guests(self) -> Iterator[Warning]:
        outlook = self.outlook
        if outlook.vms:
            running = sum(vm.power_state is not PowerState.HALTED for vm in outlook.vms)
            yield Warning(
                code="VMS_STRANDED",
                message=f"VMs on the lost hosts: {len(outlook.vms)}, {running} of them not halted.",
                remedy="If the loss is planned, migrate or shut them down before. Otherwise switch "
                "the host off before any of them is started elsewhere: it may still run there.",
            )
        if self.state.pool.default_sr in {sr.uuid for sr in outlook.srs}:
            yield Warning(
                code="DEFAULT_SR_LOST",
                message="The pool's default SR would be out of reach.",
                remedy="Choose another one with `pool set default_sr=SR`.",
            )
