"""From one reading of libvirt and the kernel to the host's inventory. Pure."""

from __future__ import annotations

from collections.abc import Collection
from xml.etree.ElementTree import Element

from poolcore.facts import Inventory
from poolcore.model import HostId, NetworkId, Object
from poolmember.drivers.libvirt_driver.domain_xml import vm_objects
from poolmember.drivers.libvirt_driver.hypervisor_xml import host_profile
from poolmember.drivers.libvirt_driver.interfaces import Interfaces, openvswitch_in_use
from poolmember.drivers.libvirt_driver.network_xml import owns_its_bridge, virtual_network
from poolmember.drivers.libvirt_driver.records import Records
from poolmember.drivers.libvirt_driver.rtnetlink import Links
from poolmember.drivers.libvirt_driver.storage_xml import Volumes, storage_objects
from poolmember.drivers.libvirt_driver.xml_values import attribute


def assembled(
    records: Records,
    links: Links,
    *,
    host: HostId,
    builtin_srs: Collection[str],
    management_addresses: Collection[str],
) -> Inventory:
    """Everything that was read, with all references among it."""
    objects: list[Object] = []
    virtual = [(record, virtual_network(record)) for record in records.networks]
    objects.extend(network for _, network in virtual)
    interfaces = Interfaces(
        links,
        host=host,
        management_addresses=management_addresses,
        virtual_networks={
            network.bridge: network.uuid
            for record, network in virtual
            if network.bridge and owns_its_bridge(record)
        },
    )
    objects.extend(interfaces.objects())
    volumes = Volumes()
    for pool in records.pools:
        objects.extend(storage_objects(pool, host=host, builtin_srs=builtin_srs, volumes=volumes))
    by_name = {network.name_label: network.uuid for _, network in virtual}

    def network_of(interface: Element) -> NetworkId | None:
        name = attribute(interface, "source", "network")
        if name:
            return by_name.get(name)
        device = attribute(interface, "source", "bridge") or attribute(interface, "source", "dev")
        return interfaces.network_of(device) if device else None

    for domain in records.domains:
        objects.extend(vm_objects(domain, host=host, volumes=volumes, networks=network_of))
    return Inventory(
        profile=host_profile(
            records.hypervisor,
            network_backend="openvswitch" if openvswitch_in_use(links) else "bridge",
        ),
        objects=tuple(objects),
    )
