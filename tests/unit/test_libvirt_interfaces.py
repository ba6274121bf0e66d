"""Which networks, PIFs, bonds, VLANs and tunnels a host's interfaces are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import pytest

from poolcore.model import (
    PIF,
    VLAN,
    Bond,
    HostId,
    IpMode,
    Network,
    NetworkId,
    Object,
    Tunnel,
)
from poolmember.drivers.libvirt_driver.interfaces import Interfaces, openvswitch_in_use
from poolmember.drivers.libvirt_driver.rtnetlink import Link, LinkAddress, Links

T = TypeVar("T", bound=Object)

HOST = HostId("0be6fdff-d32a-4ba7-9311-beb27bd22b10")
MANAGEMENT = "10.0.0.5"
VIRBR0 = NetworkId("1b0a4335-579c-4fcf-9a89-a7eab6492cc6")


class Host:
    """A host with the given interfaces, as name → properties; ports and the like go by name."""

    def __init__(
        self,
        links: Mapping[str, Mapping[str, Any]],
        *,
        management: str | None = MANAGEMENT,
        default_route: str | None = None,
    ) -> None:
        indexes = {name: index for index, name in enumerate(links, 1)}
        found = []
        for name, given in sorted(links.items()):
            properties = dict(given)
            for reference in ("controller", "lower"):
                if reference in properties:
                    properties[reference] = indexes[properties[reference]]
            address = properties.pop("address", None)
            addresses = (LinkAddress(cidr=f"{address}/24"),) if address else ()
            properties.setdefault("addresses", addresses)
            found.append(Link(index=indexes[name], name=name, **properties))
        interfaces = Interfaces(
            Links(
                links=tuple(found),
                default_routes=(indexes[default_route],) if default_route else (),
            ),
            host=HOST,
            management_addresses=() if management is None else (management,),
            virtual_networks={"virbr0": VIRBR0},
        )
        self.interfaces = interfaces
        self.objects = tuple(interfaces.objects())
        uuids = {o.uuid for o in self.objects} | {VIRBR0}
        for obj in self.objects:
            assert references(obj) <= uuids, f"{obj} refers to what is not there"

    def every(self, kind: type[T]) -> list[T]:
        return [o for o in self.objects if isinstance(o, kind)]

    @property
    def networks(self) -> dict[str, Network]:
        return {n.bridge: n for n in self.every(Network)}

    @property
    def pifs(self) -> dict[str, PIF]:
        return {p.device: p for p in self.every(PIF)}

    @property
    def management(self) -> set[str]:
        return {p.device for p in self.every(PIF) if p.management}

    @property
    def beyond_a_fresh_host(self) -> set[str]:
        return {n.bridge for n in self.every(Network) if not n.default}

    def network_of(self, device: str) -> str:
        (bridge,) = (n.bridge for n in self.every(Network) if n.uuid == self.pifs[device].network)
        return bridge


def references(obj: Object) -> set[str]:
    match obj:
        case PIF():
            return {obj.network}
        case Bond():
            return {obj.master, *obj.slaves}
        case VLAN():
            return {obj.tagged_pif, obj.untagged_pif}
        case Tunnel():
            return {obj.access_pif, obj.transport_pif}
        case _:
            return set()


# -- the management interface ----------------------------------------------------------------------


def test_a_plain_nic_with_the_management_address_is_the_management_interface() -> None:
    host = Host({"eth0": {"address": MANAGEMENT, "mac": "52:54:00:00:00:05", "mtu": 9000}})
    pif = host.pifs["eth0"]
    assert pif.management
    assert (pif.mac, pif.mtu, pif.vlan) == ("52:54:00:00:00:05", 9000, None)
    assert pif.addresses == ("10.0.0.5/24",)
    assert pif.ip_configuration_mode is IpMode.STATIC
    assert host.network_of("eth0") == "eth0"
    assert host.networks["eth0"].default
    assert host.networks["eth0"].mtu == 9000


def test_behind_a_bridge_the_nic_is_the_management_interface_with_the_bridges_address() -> None:
    host = Host(
        {
            "br0": {"kind": "bridge", "address": MANAGEMENT},
            "eth0": {"controller": "br0"},
            "vnet0": {"kind": "tun", "controller": "br0"},
        }
    )
    assert host.management == {"eth0"}
    assert host.pifs["eth0"].addresses == ("10.0.0.5/24",)
    assert set(host.networks) == {"br0"}
    assert host.beyond_a_fresh_host == set()
    assert host.network_of("eth0") == "br0"


def test_all_that_carries_the_management_address_is_part_of_a_fresh_host() -> None:
    host = Host(
        {
            "br0": {"kind": "bridge", "address": MANAGEMENT},
            "bond0.10": {"kind": "vlan", "vlan_tag": 10, "lower": "bond0", "controller": "br0"},
            "bond0": {"kind": "bond", "bond_mode": "802.3ad"},
            "eth0": {"controller": "bond0"},
            "eth1": {"controller": "bond0"},
        }
    )
    assert host.management == {"bond0.10", "bond0", "eth0", "eth1"}
    assert host.beyond_a_fresh_host == set()
    (bond,) = host.every(Bond)
    assert bond.mode == "802.3ad"
    assert bond.master == host.pifs["bond0"].uuid
    assert set(bond.slaves) == {host.pifs["eth0"].uuid, host.pifs["eth1"].uuid}
    (vlan,) = host.every(VLAN)
    assert vlan.tag == host.pifs["bond0.10"].vlan == 10
    assert vlan.tagged_pif == host.pifs["bond0.10"].uuid
    assert vlan.untagged_pif == host.pifs["bond0"].uuid
    assert host.network_of("eth0") == host.network_of("bond0") == "bond0"
    assert host.network_of("bond0.10") == "br0"


def test_without_the_address_on_any_interface_the_default_route_decides() -> None:
    links: dict[str, dict[str, Any]] = {
        "eth0": {"address": "192.0.2.7"},
        "eth1": {"address": "10.0.0.6"},
        "lo": {"network_card": False, "address": "127.0.0.1"},
    }
    for management in ("127.0.0.1", "203.0.113.9", None):
        assert Host(links, management=management, default_route="eth1").management == {"eth1"}
    assert Host(links, management="203.0.113.9").management == set()


def test_a_management_bridge_without_a_nic_stands_for_itself() -> None:
    host = Host({"br0": {"kind": "bridge", "address": MANAGEMENT}})
    assert host.management == {"br0"}
    assert host.pifs["br0"].addresses == ("10.0.0.5/24",)


def test_a_libvirt_network_may_carry_the_management_address() -> None:
    host = Host({"virbr0": {"kind": "bridge", "address": MANAGEMENT}})
    assert host.pifs["virbr0"].network == VIRBR0
    assert host.networks == {}


@pytest.mark.parametrize(
    ("addresses", "mode"),
    [
        ((), IpMode.NONE),
        ((LinkAddress(cidr="10.0.0.5/24", dynamic=True),), IpMode.DHCP),
        (
            (
                LinkAddress(cidr="10.0.0.5/24"),
                LinkAddress(cidr="2001:db8::5/64", dynamic=True),
            ),
            IpMode.STATIC,
        ),
        ((LinkAddress(cidr="2001:db8::5/64", dynamic=True),), IpMode.DHCP),
    ],
)
def test_how_an_address_was_configured(addresses: tuple[LinkAddress, ...], mode: IpMode) -> None:
    host = Host({"eth0": {"addresses": addresses}}, default_route="eth0")
    assert host.pifs["eth0"].ip_configuration_mode is mode


# -- beyond a fresh host ---------------------------------------------------------------------------


def test_further_nics_are_hardware_and_bridges_on_them_are_configuration() -> None:
    host = Host(
        {
            "eth0": {"address": MANAGEMENT},
            "eth1": {"up": False},
            "eth2": {"controller": "storage"},
            "storage": {"kind": "bridge"},
        }
    )
    assert host.beyond_a_fresh_host == {"storage"}
    assert host.network_of("eth2") == "storage"
    assert not host.pifs["eth1"].currently_attached
    assert host.management == {"eth0"}


def test_bonds_vlans_and_tunnels_beside_the_management_interface_are_found() -> None:
    host = Host(
        {
            "eth0": {"address": MANAGEMENT},
            "eth1": {"controller": "bond7"},
            "bond7": {"kind": "bond", "bond_mode": "active-backup"},
            "eth0.99": {"kind": "vlan", "vlan_tag": 99, "lower": "eth0"},
            "vxlan5": {"kind": "vxlan", "lower": "eth0"},
            "gre1": {"kind": "gretap"},
        }
    )
    assert host.beyond_a_fresh_host == {"bond7", "eth0.99", "vxlan5", "gre1"}
    assert host.management == {"eth0"}
    assert [b.mode for b in host.every(Bond)] == ["active-backup"]
    assert [v.tag for v in host.every(VLAN)] == [99]
    tunnels = {t.protocol: t for t in host.every(Tunnel)}
    assert set(tunnels) == {"vxlan", "gretap"}
    # One is bound to an interface; the other goes where the routes lead.
    assert tunnels["vxlan"].transport_pif == host.pifs["eth0"].uuid
    assert tunnels["gretap"].transport_pif == host.pifs["eth0"].uuid


def test_a_vlan_on_a_bridge_is_on_the_nic_below_it() -> None:
    host = Host(
        {
            "br0": {"kind": "bridge", "address": MANAGEMENT},
            "eth0": {"controller": "br0"},
            "br0.7": {"kind": "vlan", "vlan_tag": 7, "lower": "br0"},
        }
    )
    (vlan,) = host.every(VLAN)
    assert vlan.untagged_pif == host.pifs["eth0"].uuid


def test_a_tunnel_on_a_host_without_any_other_interface_still_refers_to_one() -> None:
    host = Host({"vxlan5": {"kind": "vxlan"}}, management=None)
    (tunnel,) = host.every(Tunnel)
    assert tunnel.transport_pif == tunnel.access_pif


def test_what_software_puts_there_for_its_own_ends_is_left_out() -> None:
    host = Host(
        {
            "eth0": {"address": MANAGEMENT},
            "lo": {"network_card": False},
            "docker0": {"kind": "bridge"},
            "br-0123456789ab": {"kind": "bridge"},
            "veth12ab": {"kind": "veth", "controller": "docker0"},
            "virbr0": {"kind": "bridge"},
            "virbr0-nic": {"kind": "tun", "controller": "virbr0"},
            "vnet3": {"kind": "tun", "controller": "virbr0"},
            "ifb0": {"kind": "ifb"},
            "dummy0": {"kind": "dummy"},
            "wg0": {"kind": "wireguard", "network_card": False},
            "cni0": {"kind": "bridge"},
            "flannel.1": {"kind": "vxlan"},
            "gre0": {"kind": "gre", "network_card": False},
            "can0": {"network_card": False},
        }
    )
    assert set(host.pifs) == {"eth0"}
    assert set(host.networks) == {"eth0"}


def test_in_a_host_that_is_a_container_the_nic_is_one_end_of_a_virtual_cable() -> None:
    host = Host({"eth0": {"kind": "veth", "address": MANAGEMENT}, "eth1": {"kind": "veth"}})
    assert set(host.pifs) == {"eth0", "eth1"}
    assert host.beyond_a_fresh_host == set()


def test_open_vswitch_shows_as_backend_and_its_bridges_as_networks() -> None:
    ovs = {
        "eth0": {"controller": "ovs-system"},
        "ovs-system": {"kind": "openvswitch"},
        "br-ex": {"kind": "openvswitch", "address": MANAGEMENT},
        "br-int": {"kind": "openvswitch"},
    }
    host = Host(ovs)
    assert host.management == {"br-ex"}
    assert set(host.networks) == {"eth0", "br-ex", "br-int"}
    assert host.beyond_a_fresh_host == {"br-int"}
    assert openvswitch_in_use(Links(links=(Link(index=1, name="br-ex", kind="openvswitch"),)))
    assert not openvswitch_in_use(Links(links=(Link(index=1, name="br0", kind="bridge"),)))


# -- names -----------------------------------------------------------------------------------------


def test_a_guests_interface_finds_its_network_by_bridge_or_device() -> None:
    host = Host(
        {
            "br0": {"kind": "bridge", "address": MANAGEMENT},
            "eth0": {"controller": "br0"},
            "docker0": {"kind": "bridge"},
        }
    )
    find = host.interfaces.network_of
    assert find("br0") == find("eth0") == host.networks["br0"].uuid
    assert find("virbr0") == VIRBR0
    assert find("docker0") is None
    assert find("br77") is None


def test_the_same_interface_keeps_its_uuid_whatever_is_added_beside_it() -> None:
    before = Host({"eth0": {"address": MANAGEMENT}})
    after = Host({"br9": {"kind": "bridge"}, "eth0": {"address": MANAGEMENT}})
    assert before.pifs["eth0"] == after.pifs["eth0"]
    assert before.networks["eth0"] == after.networks["eth0"]
