"""The network interfaces of this host, asked of the kernel.

Over rtnetlink rather than from sysfs: the answer is that of the process's own network namespace
whatever is mounted on /sys, and it has what sysfs lacks (VLAN tags, tunnels, addresses, routes).
Only the few attributes that the inventory needs are read; rtnetlink(7) describes the format, the
numbers are those of linux/rtnetlink.h, if_link.h and if_addr.h.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

_RTM_NEWLINK, _RTM_GETLINK = 16, 18
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x1, 0x300, 0x10

_ARPHRD_ETHER, _ARPHRD_INFINIBAND = 1, 32
_IFF_UP = 0x1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 3, 4, 5, 10
_IFLA_LINKINFO, _IFLA_LINK_NETNSID = 18, 37
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_IFLA_BOND_MODE, _IFLA_VLAN_ID, _IFLA_VXLAN_LINK = 1, 1, 3
_BOND_MODES = (
    "balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb",
    "balance-alb",
)  # fmt: skip

_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_TEMPORARY, _IFA_F_PERMANENT = 0x01, 0x80
_SCOPE_LINK = 253

_RT_TABLE_MAIN, _RTN_UNICAST = 254, 1
_RTA_OIF, _RTA_PRIORITY, _RTA_MULTIPATH, _RTA_TABLE = 4, 6, 9, 15

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ATTRIBUTE_TYPE = 0x3FFF
_IFINFOMSG = struct.Struct("=BxHiII")
_IFADDRMSG = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_RTNEXTHOP = struct.Struct("=HBBi")
_BUFFER_BYTES = 1 << 18
_ATTEMPTS = 5

Attributes = Mapping[int, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkAddress:
    """An IP address of a link in CIDR form; `dynamic`: with a lifetime, from DHCP or the router."""

    cidr: str
    dynamic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A network interface as the kernel has it; other links are named by their index."""

    index: int
    name: str
    kind: str = ""
    """rtnetlink's kind: `bridge`, `bond`, `vlan`, `vxlan` …; empty for hardware."""
    mac: str = ""
    mtu: int = 1500
    up: bool = True
    network_card: bool = True
    """Whether it speaks Ethernet or InfiniBand: not the loopback, a CAN bus or the like."""
    controller: int | None = None
    """The bridge or bond it is a port of."""
    lower: int | None = None
    """What a VLAN or tunnel runs on, if that is in this network namespace."""
    vlan_tag: int | None = None
    bond_mode: str = ""
    addresses: tuple[LinkAddress, ...] = ()
    """In order; without link-local and temporary ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """All interfaces, in order of their names, and those with a default route, best first."""

    links: tuple[Link, ...]
    default_routes: tuple[int, ...] = ()


def read_links() -> Links:
    """Ask the kernel: a few milliseconds at most. Raises `OSError` when it does not answer."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(2)
        netlink.bind((0, 0))
        addresses: dict[int, list[LinkAddress]] = defaultdict(list)
        for message in _dump(netlink, _RTM_GETADDR, _RTM_NEWADDR):
            for index, address in addresses_of(message):
                addresses[index].append(address)
        routes = [
            route
            for message in _dump(netlink, _RTM_GETROUTE, _RTM_NEWROUTE)
            for route in default_routes_of(message)
        ]
        links = [link_of(message) for message in _dump(netlink, _RTM_GETLINK, _RTM_NEWLINK)]
    return Links(
        links=tuple(
            replace(link, addresses=tuple(sorted(addresses[link.index], key=lambda a: a.cidr)))
            for link in sorted(links, key=lambda link: link.name)
        ),
        default_routes=tuple(dict.fromkeys(index for _, index in sorted(routes))),
    )


# -- messages --------------------------------------------------------------------------------------


def link_of(message: bytes) -> Link:
    """The link that the body of an RTM_NEWLINK message describes."""
    _, hardware, index, flags, _ = _IFINFOMSG.unpack_from(message)
    own = _attributes(message[_IFINFOMSG.size :])
    info = _attributes(own.get(_IFLA_LINKINFO, b""))
    kind = _text(info.get(_IFLA_INFO_KIND, b""))
    data = _attributes(info.get(_IFLA_INFO_DATA, b""))
    return Link(
        index=index,
        name=_text(own[_IFLA_IFNAME]),
        kind=kind,
        mac=own.get(_IFLA_ADDRESS, b"").hex(":"),
        mtu=_number(own.get(_IFLA_MTU)) or 0,
        up=bool(flags & _IFF_UP),
        network_card=hardware in {_ARPHRD_ETHER, _ARPHRD_INFINIBAND},
        controller=_number(own.get(_IFLA_MASTER)),
        lower=_lower(kind, own, data),
        vlan_tag=_number(data.get(_IFLA_VLAN_ID)) if kind == "vlan" else None,
        bond_mode=_bond_mode(data) if kind == "bond" else "",
    )


def _lower(kind: str, own: Attributes, data: Attributes) -> int | None:
    # A veth has its other end here, and whatever has a namespace id has it somewhere else.
    if kind in {"", "veth"} or _IFLA_LINK_NETNSID in own:
        return None
    if kind == "vxlan":
        return _number(data.get(_IFLA_VXLAN_LINK)) or None
    return _number(own.get(_IFLA_LINK)) or None


def _bond_mode(data: Attributes) -> str:
    mode = _number(data.get(_IFLA_BOND_MODE))
    return _BOND_MODES[mode] if mode is not None and mode < len(_BOND_MODES) else ""


def addresses_of(message: bytes) -> Iterator[tuple[int, LinkAddress]]:
    """Link index and address of the body of an RTM_NEWADDR message; none for what is left out."""
    family, prefix, short_flags, scope, index = _IFADDRMSG.unpack_from(message)
    attributes = _attributes(message[_IFADDRMSG.size :])
    flags = _number(attributes.get(_IFA_FLAGS)) or short_flags
    # On a point-to-point link IFA_ADDRESS is the other end's; IPv6 has no IFA_LOCAL otherwise.
    raw = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
    if raw is None or scope >= _SCOPE_LINK:
        return
    if family == socket.AF_INET6 and flags & _IFA_F_TEMPORARY:
        return
    address = ipaddress.ip_address(raw)
    yield index, LinkAddress(cidr=f"{address}/{prefix}", dynamic=not flags & _IFA_F_PERMANENT)


def default_routes_of(message: bytes) -> Iterator[tuple[int, int]]:
    """(metric, link index) of the body of an RTM_NEWROUTE message; none unless a default route."""
    _, length, _, _, table, _, _, route_type, _ = _RTMSG.unpack_from(message)
    attributes = _attributes(message[_RTMSG.size :])
    table = _number(attributes.get(_RTA_TABLE)) or table
    if length or table != _RT_TABLE_MAIN or route_type != _RTN_UNICAST:
        return
    metric = _number(attributes.get(_RTA_PRIORITY)) or 0
    index = _number(attributes.get(_RTA_OIF))
    if index is not None:
        yield metric, index
    hops = attributes.get(_RTA_MULTIPATH, b"")
    while len(hops) >= _RTNEXTHOP.size:
        length, _, _, index = _RTNEXTHOP.unpack_from(hops)
        yield metric, index
        hops = hops[max(length, _RTNEXTHOP.size) :]


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        length, number = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            break
        found[number & _ATTRIBUTE_TYPE] = data[_ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]
    return found


def _number(data: bytes | None) -> int | None:
    return None if data is None else int.from_bytes(data, sys.byteorder)


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")


# -- the conversation ------------------------------------------------------------------------------


def _dump(netlink: socket.socket, request: int, answer: int) -> list[bytes]:
    """The bodies of all answers to a dump request, as of one moment."""
    for sequence in range(1, _ATTEMPTS + 1):
        body = bytes(_IFINFOMSG.size)
        length = _HEADER.size + len(body)
        flags = _NLM_F_REQUEST | _NLM_F_DUMP
        netlink.send(_HEADER.pack(length, request, flags, sequence, 0) + body)
        bodies, interrupted = _answers(netlink, answer, sequence)
        # Something changed while the kernel was writing the list: it may be inconsistent.
        if not interrupted:
            return bodies
    raise OSError("the kernel's interfaces change faster than they can be listed")


def _answers(netlink: socket.socket, wanted: int, sequence: int) -> tuple[list[bytes], bool]:
    bodies: list[bytes] = []
    interrupted = False
    while True:
        data = netlink.recv(_BUFFER_BYTES)
        while len(data) >= _HEADER.size:
            length, kind, flags, of, _ = _HEADER.unpack_from(data)
            body = data[_HEADER.size : length]
            data = data[(length + 3) & ~3 :]
            if of != sequence:
                continue
            interrupted |= bool(flags & _NLM_F_DUMP_INTR)
            if kind == _NLMSG_DONE:
                return bodies, interrupted
            if kind == _NLMSG_ERROR:
                code = -struct.unpack_from("=i", body)[0]
                raise OSError(code, "the kernel does not list its interfaces")
            if kind == wanted:
                bodies.append(body)
