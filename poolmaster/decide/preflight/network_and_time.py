"""Rows 17 to 20: the host can be reached where the pool needs it, and knows what time it is."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from poolcore.model import PIF, Finding, IpMode, Network, Severity
from poolmaster.decide.preflight import remedies
from poolmaster.decide.preflight.case import Case, listing, management_interfaces, shown
from poolmaster.decide.preflight.codes import Code

CLOCK_LIMIT_SECONDS = 1.0
CLOCK_WARNING_SECONDS = 0.2


def management_address(case: Case) -> Iterator[Finding]:
    """Row 17."""
    interfaces = management_interfaces(case.joining.inventory.pifs())
    usable = _usable(interfaces)
    if not usable:
        what = "no management interface"
        if interfaces:
            what = f"{shown(interfaces[0].device)} without an address that others could use"
        yield case.finding(
            Code.NO_MANAGEMENT_IP,
            expected="a management interface with an address",
            actual=what,
            explanation=f"The pool reaches its hosts over their management interface, and "
            f"{case.name} has {what}.",
            remedy=remedies.elsewhere(
                case,
                real="Give the interface that carries the address in `listen` or `advertise` a "
                "fixed address in the host's network configuration; `ip -brief address` shows "
                "what there is.",
                key="`addresses` in the table [management]",
            ),
        )
        return
    dhcp = [pif for pif in interfaces if pif.ip_configuration_mode is IpMode.DHCP]
    if dhcp:
        device = shown(dhcp[0].device)
        yield case.finding(
            Code.ADDRESS_BY_DHCP,
            severity=Severity.WARNING,
            subject=device,
            expected="a fixed address",
            actual=f"an address by DHCP, now {listing(usable)}",
            explanation=f"{case.name} has its management address from a DHCP server; should it "
            "get another one, the pool loses it.",
            remedy=remedies.elsewhere(
                case,
                real="Reserve the address in the DHCP server, or configure it as a fixed one.",
                key='`mode` in the table [management] to "static"',
            ),
        )


def same_management_network(case: Case) -> Iterator[Finding]:
    """Row 18, against the master's management interface; row 17 says it if there is none."""
    ours = management_interfaces(p for p in case.pool.all(PIF) if p.host == case.master.uuid)
    theirs = management_interfaces(case.joining.inventory.pifs())
    if not ours or not _usable(theirs):
        return
    device = shown(theirs[0].device)
    families, wanted = _families(theirs), _families(ours)
    if wanted and not families & wanted:
        yield case.finding(
            Code.ADDRESS_TYPE_DIFFERS,
            subject=device,
            expected=listing(wanted),
            actual=listing(families),
            explanation=f"{case.name} is reached over {listing(families)} and the pool talks over "
            f"{listing(wanted)}.",
            remedy=remedies.elsewhere(
                case,
                real=f"Give {device} an {listing(wanted)} address, too, and let `advertise` in "
                "/etc/poolmember/config.toml name it.",
                key="`addresses` in the table [management]",
            ),
        )
    if (actual := _tag(theirs)) != (expected := _tag(ours)):
        yield case.finding(
            Code.VLAN_DIFFERS,
            subject=device,
            expected=_vlan(expected),
            actual=_vlan(actual),
            explanation=f"The management address of {case.name} is on {_vlan(actual)}, that of the "
            f"pool's master on {_vlan(expected)}.",
            remedy=remedies.elsewhere(
                case,
                real="Put the management address onto the same VLAN as the master's in the host's "
                "network configuration.",
                key="`vlan` in the table [management]",
            ),
        )
    network = case.pool.get(Network, ours[0].network)
    if network is not None and theirs[0].mtu != network.mtu:
        yield case.finding(
            Code.MTU_MISMATCH,
            subject=device,
            expected=str(network.mtu),
            actual=str(theirs[0].mtu),
            explanation=f"The management interface of {case.name} has MTU {theirs[0].mtu}, the "
            f"pool's network “{shown(network.name_label)}” {network.mtu}; large packets between "
            "them can get lost.",
            remedy=remedies.set_mtu(case, device, network.mtu),
            forceable=True,
        )


def reaches_members(case: Case) -> Iterator[Finding]:
    """Row 19: both ways, every host, every port needed."""
    for gap in case.joining.unreachable:
        source, target = shown(gap.from_host), shown(gap.to_host)
        endpoint = shown(gap.endpoint)
        host, _, port = endpoint.rpartition(":")
        yield case.finding(
            Code.CANNOT_REACH_MEMBER,
            subject=f"{source} → {target}",
            expected=f"a connection to {endpoint}",
            actual=shown(gap.problem),
            explanation=f"Every host of a pool must reach every other, and {source} does not reach "
            f"{target} at {endpoint}: {shown(gap.problem)}.",
            remedy=remedies.elsewhere(
                case,
                real=f"Let TCP port {port} from {source} through to {target}, in its firewall and "
                f"on the way; `nc -vz {host.strip('[]')} {port}` on {source} tries it.",
                key="`unreachable`",
            ),
        )


def same_time(case: Case) -> Iterator[Finding]:
    """Row 20: an error beyond 1 s, a warning from 200 ms on."""
    offset = case.joining.clock_offset_seconds
    # Written so that an offset that is not a number is too much.
    if abs(offset) < CLOCK_WARNING_SECONDS:
        return
    too_much = not abs(offset) <= CLOCK_LIMIT_SECONDS
    direction = "behind" if offset < 0 else "ahead of"
    yield case.finding(
        Code.CLOCK_SKEW,
        severity=Severity.ERROR if too_much else Severity.WARNING,
        expected=f"within {CLOCK_LIMIT_SECONDS:g} s of the master's clock",
        actual=f"{abs(offset):.3f} s {direction} it",
        explanation=f"The clock of {case.name} is {abs(offset):.3f} s {direction} the master's; "
        "logs, certificates and schedules of the pool would contradict each other.",
        remedy=remedies.set_clock(case),
        forceable=too_much,
    )


def _usable(interfaces: Iterable[PIF]) -> list[str]:
    """Addresses that another host can use: no link-local ones, and nothing unreadable."""
    return [a for pif in interfaces for a in pif.addresses if _family(a) is not None]


def _families(interfaces: Iterable[PIF]) -> set[str]:
    found = {_family(address) for pif in interfaces for address in pif.addresses}
    return {family for family in found if family is not None}


def _family(address: str) -> str | None:
    try:
        parsed = ipaddress.ip_interface(address)
    except ValueError:
        return None
    if parsed.is_link_local or parsed.is_unspecified:
        return None
    return f"IPv{parsed.version}"


def _tag(interfaces: Iterable[PIF]) -> int | None:
    return next((pif.vlan for pif in interfaces if pif.vlan is not None), None)


def _vlan(tag: int | None) -> str:
    return "no VLAN" if tag is None else f"VLAN {tag}"
