"""The connections of VMs to disks."""

from __future__ import annotations

from poolcli.nouns import Noun, noun_app
from poolcli.text import yes_no

app = noun_app(
    Noun(
        name="vbd",
        help="The connections of VMs to disks.",
        columns={
            "VM": lambda vbd, others: others.name(vbd.vm),
            "DEVICE": lambda vbd, _: vbd.device,
            "TYPE": lambda vbd, _: vbd.type,
            "VDI": lambda vbd, others: others.name(vbd.vdi),
            "READ-ONLY": lambda vbd, _: yes_no(vbd.read_only),
        },
        needs=("vm", "vdi"),
        order=lambda vbd, others: (others.name(vbd.vm), vbd.device),
    )
)
