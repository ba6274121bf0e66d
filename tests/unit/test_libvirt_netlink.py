"""Reading rtnetlink: messages built after the kernel's headers, and the kernel of this machine."""

from __future__ import annotations

import socket
import struct

from poolmember.drivers.libvirt_driver.rtnetlink import (
    LinkAddress,
    addresses_of,
    default_routes_of,
    link_of,
    read_links,
)


def attribute(number: int, value: bytes) -> bytes:
    data = struct.pack("=HH", 4 + len(value), number) + value
    return data + bytes(-len(data) % 4)


def u32(value: int) -> bytes:
    return struct.pack("=I", value)


def link(
    *attributes: bytes, name: str = "x0", hardware: int = 1, flags: int = 1, kind: str = "",
    data: bytes = b"",
) -> bytes:  # fmt: skip
    info = attribute(1, kind.encode() + b"\0") + attribute(2, data) if kind else b""
    return b"".join(
        (
            struct.pack("=BxHiII", 0, hardware, 7, flags, 0),
            attribute(3, name.encode() + b"\0"),
            attribute(4, u32(1500)),
            *attributes,
            attribute(18, info),
        )
    )


def address(
    family: int, raw: bytes, *, flags: int = 0x80, scope: int = 0, local: bytes | None = None
) -> bytes:
    body = struct.pack("=BBBBI", family, 24, flags & 0xFF, scope, 7)
    body += attribute(1, raw) + attribute(8, u32(flags))
    return body + (attribute(2, local) if local else b"")


def route(*attributes: bytes, length: int = 0, table: int = 254, kind: int = 1) -> bytes:
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, length, 0, 0, table, 3, 0, kind, 0)
    return body + b"".join(attributes)


def test_a_network_card() -> None:
    found = link_of(link(attribute(1, bytes.fromhex("525400000005")), name="eth0"))
    assert (found.index, found.name, found.kind, found.mtu) == (7, "eth0", "", 1500)
    assert found.mac == "52:54:00:00:00:05"
    assert found.up
    assert found.network_card


def test_the_loopback_and_a_can_bus_are_no_network_cards() -> None:
    assert not link_of(link(name="lo", hardware=772)).network_card
    assert not link_of(link(name="can0", hardware=280)).network_card


def test_a_port_names_its_bridge_and_may_be_down() -> None:
    found = link_of(link(attribute(10, u32(12)), flags=0))
    assert found.controller == 12
    assert not found.up


def test_a_vlan_has_its_tag_and_what_it_is_on() -> None:
    found = link_of(
        link(
            attribute(5, u32(3)),
            kind="vlan",
            data=attribute(1, struct.pack("=H", 100)) + attribute(5, struct.pack("=H", 0x81)),
        )
    )
    assert (found.kind, found.vlan_tag, found.lower) == ("vlan", 100, 3)


def test_a_bond_has_its_mode() -> None:
    def mode(number: int) -> str:
        return link_of(link(kind="bond", data=attribute(1, bytes([number])))).bond_mode

    assert [mode(n) for n in range(7)] == [
        "balance-rr",
        "active-backup",
        "balance-xor",
        "broadcast",
        "802.3ad",
        "balance-tlb",
        "balance-alb",
    ]
    assert mode(7) == ""


def test_a_vxlan_names_its_interface_in_its_own_way() -> None:
    assert link_of(link(kind="vxlan", data=attribute(3, u32(4)))).lower == 4
    assert link_of(link(kind="vxlan", data=attribute(3, u32(0)))).lower is None
    assert link_of(link(kind="vxlan")).lower is None


def test_what_is_in_another_namespace_or_the_other_end_of_a_cable_is_not_below() -> None:
    assert link_of(link(attribute(5, u32(9)), kind="veth")).lower is None
    elsewhere = link(attribute(5, u32(9)), attribute(37, u32(0)), kind="gretap")
    assert link_of(elsewhere).lower is None
    assert link_of(link(attribute(5, u32(9)), kind="gretap")).lower == 9


def test_addresses_that_come_and_go_by_themselves_are_left_out() -> None:
    v4 = socket.inet_pton(socket.AF_INET, "10.0.0.5")
    v6 = socket.inet_pton(socket.AF_INET6, "2001:db8::5")
    fixed = [*addresses_of(address(socket.AF_INET, v4))]
    assert fixed == [(7, LinkAddress(cidr="10.0.0.5/24"))]
    leased = [*addresses_of(address(socket.AF_INET, v4, flags=0))]
    assert leased == [(7, LinkAddress(cidr="10.0.0.5/24", dynamic=True))]
    routed = [*addresses_of(address(socket.AF_INET6, v6, flags=0x100))]
    assert routed == [(7, LinkAddress(cidr="2001:db8::5/24", dynamic=True))]
    assert not [*addresses_of(address(socket.AF_INET6, v6, flags=0x101))]  # temporary
    assert not [*addresses_of(address(socket.AF_INET6, v6, scope=253))]  # link-local


def test_of_a_point_to_point_link_this_ends_address_counts() -> None:
    here, there = (socket.inet_pton(socket.AF_INET, a) for a in ("10.0.0.1", "10.0.0.2"))
    found = [*addresses_of(address(socket.AF_INET, there, local=here))]
    assert found == [(7, LinkAddress(cidr="10.0.0.1/24"))]


def test_default_routes_of_the_main_table_with_their_metric() -> None:
    out = attribute(4, u32(7))
    assert [*default_routes_of(route(out, attribute(6, u32(100))))] == [(100, 7)]
    assert [*default_routes_of(route(out))] == [(0, 7)]
    assert not [*default_routes_of(route(out, length=24))]
    assert not [*default_routes_of(route(out, table=255))]
    assert not [*default_routes_of(route(out, attribute(15, u32(1000)), table=0))]
    assert not [*default_routes_of(route(kind=7))]  # unreachable


def test_a_default_route_over_several_interfaces() -> None:
    hops = b"".join(struct.pack("=HBBi", 8, 0, 0, index) for index in (7, 9))
    assert [*default_routes_of(route(attribute(9, hops)))] == [(0, 7), (0, 9)]


def test_the_kernel_of_this_machine_answers() -> None:
    found = read_links()
    (loopback,) = (link for link in found.links if link.name == "lo")
    assert loopback.index == socket.if_nametoindex("lo")
    assert not loopback.network_card
    assert [link.name for link in found.links] == sorted(name for _, name in socket.if_nameindex())
    assert {*found.default_routes} <= {link.index for link in found.links}
