"""The interfaces of hosts."""

from __future__ import annotations

from poolcli.nouns import Noun, noun_app
from poolcli.text import yes_no

app = noun_app(
    Noun(
        name="pif",
        help="The interfaces of hosts.",
        columns={
            "HOST": lambda pif, others: others.name(pif.host),
            "DEVICE": lambda pif, _: pif.device,
            "NETWORK": lambda pif, others: others.name(pif.network),
            "VLAN": lambda pif, _: "" if pif.vlan is None else str(pif.vlan),
            "MANAGEMENT": lambda pif, _: yes_no(pif.management),
            "ADDRESSES": lambda pif, _: ", ".join(pif.addresses),
        },
        needs=("host", "network"),
        order=lambda pif, others: (others.name(pif.host), pif.device),
    )
)
