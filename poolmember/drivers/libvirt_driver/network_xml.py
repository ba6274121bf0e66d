"""From libvirt's virtual networks to networks. Pure."""

from __future__ import annotations

from poolcore.model import Network, NetworkId
from poolmember.drivers.libvirt_driver.records import NetworkRecord
from poolmember.drivers.libvirt_driver.xml_values import attribute, parsed, text

STOCK_NETWORK = "default"


def virtual_network(record: NetworkRecord) -> Network:
    """A libvirt network, active or not.

    The stock one is flagged as what every fresh host has, as long as it still is what libvirt
    ships: guests behind address translation, on a bridge of libvirt's own. `bridge` is empty for a
    network without a bridge, such as one that hands interfaces of the host to guests.
    """
    network = parsed(record.xml)
    name = text(network, "name")
    translated = attribute(network, "forward", "mode") == "nat"
    return Network(
        uuid=NetworkId(text(network, "uuid")),
        name_label=name,
        name_description=text(network, "description"),
        bridge=attribute(network, "bridge", "name"),
        mtu=int(attribute(network, "mtu", "size", "1500")),
        default=name == STOCK_NETWORK and translated,
    )


def owns_its_bridge(record: NetworkRecord) -> bool:
    """Whether libvirt makes the bridge, rather than using one that the host has."""
    return attribute(parsed(record.xml), "forward", "mode") != "bridge"
