"""From the kernel's interfaces to networks, PIFs, bonds, VLANs and tunnels. Pure.

A network is a bridge that guests can be on. An interface that is on no bridge has a network of its
own, as in XAPI. Which of them every fresh host has (design §8), and are flagged `default`:

* what carries the management address: the interface with that address (without such a one, that of
  the default route), and below it bridge ports, bond slaves and the interface under a VLAN;
* NICs that nothing was built on: they are hardware, not configuration.

Left out is what software puts there for its own ends: loopback, guests' ends of virtual cables,
the bridges of container engines. Bridges of libvirt's virtual networks are told by libvirt.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_interface

from poolcore.model import (
    PIF,
    VLAN,
    Bond,
    BondId,
    HostId,
    IpMode,
    Kind,
    Network,
    NetworkId,
    Object,
    PifId,
    Tunnel,
    TunnelId,
    VlanId,
    derived_uuid,
)
from poolmember.drivers.libvirt_driver.rtnetlink import Link, LinkAddress, Links

_BRIDGES = frozenset({"bridge", "openvswitch"})
_BONDS = frozenset({"bond", "team"})
_TUNNELS = frozenset({"vxlan", "geneve", "gre", "gretap", "ip6gre", "ip6gretap", "erspan"})
_NICS = frozenset({"", "veth"})
"""A veth counts as a NIC: in a host that is itself a container it is one. `_IGNORED` has the
others."""

_IGNORED = re.compile(
    # The other ends of guests and containers.
    r"vnet\d+|veth.+|tap\d.*|macvtap\d+|virbr\d+-nic|cali.+|lxc.+|"
    # Bridges and tunnels of container engines.
    r"docker\d+|docker_gwbridge|br-[0-9a-f]{12}|podman\d+|cni.*|flannel.*|vxlan\.calico|"
    r"lxdbr\d+|incusbr\d+|"
    # What the kernel makes by itself in each network namespace.
    r"gre0|gretap0|erspan0|ip6gre0|ovs-system"
)


def openvswitch_in_use(links: Links) -> bool:
    """Whether the host has bridges of Open vSwitch."""
    return any(link.kind == "openvswitch" for link in links.links)


class Interfaces:
    """The host's interfaces in the pool's terms.

    `management_addresses`: the IP addresses of the management endpoint, as far as is known.
    `virtual_networks`: libvirt's networks by the name of their bridge.
    """

    def __init__(
        self,
        links: Links,
        *,
        host: HostId,
        management_addresses: Collection[str],
        virtual_networks: Mapping[str, NetworkId],
    ) -> None:
        self._host = host
        self._virtual_networks = virtual_networks
        self._links = {link.index: link for link in links.links}
        self._carrier = self._find_carrier(links, management_addresses)
        self._management = set(self._carriers(self._carrier))
        self._pifs = [link for link in links.links if self._is_pif(link)]
        self._pif_indexes = {link.index for link in self._pifs}

    def objects(self) -> Iterator[Object]:
        """Networks of this host's own, PIFs, bonds, VLANs and tunnels."""
        yield from self._own_networks()
        for link in self._pifs:
            yield self._pif(link)
            if link.kind in _BONDS:
                yield self._bond(link)
            elif link.vlan_tag is not None:
                yield self._vlan(link, link.vlan_tag)
            elif link.kind in _TUNNELS:
                yield self._tunnel(link)

    def network_of(self, device: str) -> NetworkId | None:
        """The network of a bridge or interface by its name; none if it is left out."""
        if device in self._virtual_networks:
            return self._virtual_networks[device]
        for link in self._links.values():
            if link.name == device and (link.index in self._pif_indexes or _is_bridge(link)):
                return self._network_id(self._top(link))
        return None

    # -- which links count -----------------------------------------------------------------------

    def _find_carrier(self, links: Links, addresses: Collection[str]) -> Link | None:
        wanted = {ip_address(address) for address in addresses}
        for link in links.links:
            own = {ip_interface(address.cidr).ip for address in link.addresses}
            if any(not address.is_loopback for address in own & wanted):
                return link
        routes = (self._links.get(index) for index in links.default_routes)
        return next((link for link in routes if link is not None), None)

    def _carriers(self, link: Link | None) -> Iterator[int]:
        """The link and all below it that takes part in carrying its addresses."""
        if link is None:
            return
        yield link.index
        for below in self._below(link):
            yield from self._carriers(below)

    def _below(self, link: Link) -> list[Link]:
        if link.kind in _BRIDGES or link.kind in _BONDS:
            ports = (p for p in self._links.values() if p.controller == link.index)
            return [p for p in ports if _is_nic(p) or p.kind in _BONDS or p.kind == "vlan"]
        lower = self._links.get(link.lower) if link.lower is not None else None
        return [lower] if lower is not None and link.kind == "vlan" else []

    def _is_pif(self, link: Link) -> bool:
        if link.index in self._management:
            # A bridge is stood for by its ports, if it has any.
            return link.kind not in _BRIDGES or not self._below(link)
        return _is_nic(link) or (
            (link.kind in _BONDS or link.kind in _TUNNELS or link.vlan_tag is not None)
            and not _IGNORED.fullmatch(link.name)
        )

    # -- networks --------------------------------------------------------------------------------

    def _own_networks(self) -> Iterator[Network]:
        tops = {top.name: top for top in map(self._top, self._pifs)}
        tops |= {link.name: link for link in self._links.values() if _is_bridge(link)}
        for name, top in sorted(tops.items()):
            if name in self._virtual_networks:
                continue
            management = top.index in self._management
            yield Network(
                uuid=self._network_id(top),
                name_label=name,
                name_description="Management network" if management else "",
                bridge=name,
                mtu=top.mtu,
                default=management or _is_nic(top),
            )

    def _top(self, link: Link) -> Link:
        """The bridge, or else the outermost interface, whose network `link` belongs to."""
        above = self._links.get(link.controller) if link.controller is not None else None
        if above is None or not (_is_bridge(above) or above.kind in _BONDS):
            return link
        return self._top(above)

    def _network_id(self, top: Link) -> NetworkId:
        known = self._virtual_networks.get(top.name)
        return known or NetworkId(derived_uuid(self._host, Kind.NETWORK, top.name))

    # -- interfaces ------------------------------------------------------------------------------

    def _pif(self, link: Link) -> PIF:
        addresses = self._addresses(link)
        return PIF(
            uuid=self._pif_id(link),
            host=self._host,
            network=self._network_id(self._top(link)),
            device=link.name,
            mac=link.mac,
            mtu=link.mtu,
            vlan=link.vlan_tag,
            management=link.index in self._management,
            ip_configuration_mode=_ip_mode(addresses),
            addresses=tuple(a.cidr for a in addresses),
            currently_attached=link.up,
        )

    def _addresses(self, link: Link) -> tuple[LinkAddress, ...]:
        """The link's own addresses and, on the first port of a bridge, those of the bridge."""
        bridge = self._links.get(link.controller) if link.controller is not None else None
        if bridge is None or bridge.kind not in _BRIDGES:
            return link.addresses
        return link.addresses + (bridge.addresses if self._stand_in(bridge) == link else ())

    def _stand_in(self, link: Link | None) -> Link | None:
        """The PIF that stands for a link: itself, or a bridge's first port; none if none does."""
        if link is None or link.index in self._pif_indexes:
            return link
        ports = (p for p in self._pifs if p.controller == link.index)
        return min(ports, key=lambda p: p.name, default=None)

    def _bond(self, link: Link) -> Bond:
        slaves = [p for p in self._pifs if p.controller == link.index]
        return Bond(
            uuid=BondId(derived_uuid(self._host, Kind.BOND, link.name)),
            master=self._pif_id(link),
            slaves=tuple(self._pif_id(slave) for slave in slaves),
            mode=link.bond_mode or link.kind,
        )

    def _vlan(self, link: Link, tag: int) -> VLAN:
        return VLAN(
            uuid=VlanId(derived_uuid(self._host, Kind.VLAN, link.name)),
            tagged_pif=self._pif_id(link),
            untagged_pif=self._pif_below(link),
            tag=tag,
        )

    def _tunnel(self, link: Link) -> Tunnel:
        return Tunnel(
            uuid=TunnelId(derived_uuid(self._host, Kind.TUNNEL, link.name)),
            access_pif=self._pif_id(link),
            transport_pif=self._pif_below(link),
            protocol=link.kind,
        )

    def _pif_below(self, link: Link) -> PifId:
        # A tunnel that is bound to no interface leaves by the routes, most likely where the
        # management address is. The model wants a reference in every case.
        lower = self._links.get(link.lower) if link.lower is not None else self._carrier
        return self._pif_id(self._stand_in(lower) or self._stand_in(self._carrier) or link)

    def _pif_id(self, link: Link) -> PifId:
        return PifId(derived_uuid(self._host, Kind.PIF, link.name))


def _is_nic(link: Link) -> bool:
    return link.kind in _NICS and link.network_card and not _IGNORED.fullmatch(link.name)


def _is_bridge(link: Link) -> bool:
    return link.kind in _BRIDGES and not _IGNORED.fullmatch(link.name)


def _ip_mode(addresses: Iterable[LinkAddress]) -> IpMode:
    """How the interface is configured; IPv4 decides where it has both."""
    found = list(addresses)
    decisive = [a for a in found if ip_interface(a.cidr).version == 4] or found
    if not decisive:
        return IpMode.NONE
    return IpMode.DHCP if any(a.dynamic for a in decisive) else IpMode.STATIC
