"""Rows 1 to 4: what every pool asks of a host that joins. It runs the same and brings nothing."""

from __future__ import annotations

from collections.abc import Iterator

from poolcore.model import PIF, SR, VLAN, VM, Bond, Finding, Network, PowerState, Tunnel
from poolmaster.decide.preflight import remedies
from poolmaster.decide.preflight.case import Case, one_each, shown
from poolmaster.decide.preflight.codes import Code


def same_product_version(case: Case) -> Iterator[Finding]:
    """Row 1."""
    expected = case.master.software_version.product_version
    actual = case.joining.software_version.product_version
    if actual != expected:
        yield case.finding(
            Code.SAME_PRODUCT_VERSION,
            expected=expected,
            actual=shown(actual),
            explanation=f"All hosts of a pool run the same release; {case.name} runs "
            f"{shown(actual)} and the master {expected}.",
            remedy=remedies.install_release(case, expected),
        )


def no_vms(case: Case) -> Iterator[Finding]:
    """Row 2: running, halted, suspended or paused."""

    def finding(vm: VM) -> Finding:
        return case.finding(
            Code.HAS_VMS,
            subject=shown(vm.name_label),
            expected="no VM",
            actual=f"a {vm.power_state} VM, {shown(vm.uuid)}",
            explanation=f"A host brings no VMs into a pool, and “{shown(vm.name_label)}” is "
            f"{vm.power_state} on {case.name}.",
            remedy=remedies.remove_vm(case, vm),
        )

    def rest(count: int) -> Finding:
        return case.finding(
            Code.HAS_VMS,
            subject=f"{count} more VMs",
            expected="no VM",
            actual=f"{count} VMs beyond those listed",
            explanation=f"A host brings no VMs into a pool, and {case.name} has {count} more.",
            remedy=remedies.list_vms(case),
        )

    # Those that run first: they are the ones somebody would miss.
    order = (
        PowerState.RUNNING,
        PowerState.UNKNOWN,
        PowerState.PAUSED,
        PowerState.SUSPENDED,
        PowerState.HALTED,
    )
    vms = sorted(case.found(VM), key=lambda v: (order.index(v.power_state), v.name_label, v.uuid))
    return one_each(vms, finding, rest)


def default_network_only(case: Case) -> Iterator[Finding]:
    """Row 3; the bond and the VLAN that carry the management address are part of a fresh host."""
    management = {pif.uuid for pif in case.found(PIF) if pif.management}
    devices = {pif.uuid: pif.device for pif in case.found(PIF)}
    networks = [n for n in case.found(Network) if not n.default]
    networks.sort(key=lambda n: (n.name_label, n.uuid))
    yield from one_each(networks, lambda n: _network(case, n), lambda c: _more_networks(case, c))
    for bond in case.found(Bond):
        if bond.master not in management:
            device = shown(devices.get(bond.master, "a bond"))
            yield case.finding(
                Code.HAS_BONDS,
                subject=device,
                expected="no bond but the management interface's",
                actual=f"bond {device} of {len(bond.slaves)} interfaces",
                explanation=f"Bonds are made in the pool, for all hosts alike, and {case.name} has "
                f"the bond {device}.",
                remedy=remedies.remove_interface(case, "[[bond]]", device),
            )
    for vlan in case.found(VLAN):
        if vlan.tagged_pif not in management:
            device = shown(devices.get(vlan.tagged_pif, "a VLAN"))
            yield case.finding(
                Code.HAS_VLANS,
                subject=device,
                expected="no VLAN but the management interface's",
                actual=f"VLAN {vlan.tag} on {shown(devices.get(vlan.untagged_pif, '?'))}",
                explanation=f"VLANs are made in the pool, for all hosts alike, and {case.name} has "
                f"VLAN {vlan.tag}, which does not carry its management address.",
                remedy=remedies.remove_interface(case, "[[vlan]]", device),
            )
    for tunnel in case.found(Tunnel):
        device = shown(devices.get(tunnel.access_pif, "a tunnel"))
        yield case.finding(
            Code.HAS_TUNNELS,
            subject=device,
            expected="no tunnel",
            actual=f"{shown(tunnel.protocol)} tunnel {device}",
            explanation=f"A tunnel leads to other hosts, which the pool may not know, and "
            f"{case.name} has the tunnel {device}.",
            remedy=remedies.remove_interface(case, "[[tunnel]]", device),
        )


def _network(case: Case, network: Network) -> Finding:
    name = shown(network.name_label)
    return case.finding(
        Code.HAS_NETWORKS,
        subject=name,
        expected="the default network only",
        actual=f"network “{name}” on bridge {shown(network.bridge) or '–'}",
        explanation=f"Networks span the pool and are made there; {case.name} has a network of its "
        f"own, “{name}”.",
        remedy=remedies.remove_network(case, network),
    )


def _more_networks(case: Case, count: int) -> Finding:
    return case.finding(
        Code.HAS_NETWORKS,
        subject=f"{count} more networks",
        expected="the default network only",
        actual=f"{count} networks beyond those listed",
        explanation=f"Networks span the pool and are made there; {case.name} has {count} more of "
        "its own.",
        remedy=remedies.list_networks(case),
    )


def no_extra_sr(case: Case) -> Iterator[Finding]:
    """Row 4: shared SRs, and local ones beyond those that every fresh host has."""
    srs = [sr for sr in case.found(SR) if sr.shared or not sr.builtin]
    srs.sort(key=lambda sr: (not sr.shared, sr.name_label, sr.uuid))
    return one_each(srs, lambda sr: _sr(case, sr), lambda count: _more_srs(case, count))


def _sr(case: Case, sr: SR) -> Finding:
    name = shown(sr.name_label)
    what = f"{'shared' if sr.shared else 'local'} SR “{name}” of type {shown(sr.type)}"
    reason = (
        "Shared storage is connected by the pool, to all hosts alike"
        if sr.shared
        else "A host brings only the SRs into a pool that every fresh host has"
    )
    return case.finding(
        Code.HAS_SHARED_SRS if sr.shared else Code.HAS_EXTRA_SRS,
        subject=name,
        expected="no shared SR" if sr.shared else "no local SR but the built-in ones",
        actual=what,
        explanation=f"{reason}, and {case.name} has the {what}.",
        remedy=remedies.remove_sr(case, sr),
    )


def _more_srs(case: Case, count: int) -> Finding:
    return case.finding(
        Code.HAS_EXTRA_SRS,
        subject=f"{count} more SRs",
        expected="the built-in SRs only",
        actual=f"{count} SRs beyond those listed",
        explanation=f"A host brings only the SRs into a pool that every fresh host has, and "
        f"{case.name} has {count} more.",
        remedy=remedies.list_srs(case),
    )
