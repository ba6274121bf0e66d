"""The connections of VMs to networks."""

from __future__ import annotations

from poolcli.nouns import Noun, noun_app

app = noun_app(
    Noun(
        name="vif",
        help="The connections of VMs to networks.",
        columns={
            "VM": lambda vif, others: others.name(vif.vm),
            "DEVICE": lambda vif, _: vif.device,
            "NETWORK": lambda vif, others: others.name(vif.network),
            "MAC": lambda vif, _: vif.mac,
        },
        needs=("vm", "network"),
        order=lambda vif, others: (others.name(vif.vm), vif.device),
    )
)
