"""Virtual disk images."""

from __future__ import annotations

from poolcli.nouns import Noun, noun_app
from poolcli.text import size, yes_no

app = noun_app(
    Noun(
        name="vdi",
        help="Virtual disk images.",
        columns={
            "NAME": lambda vdi, _: vdi.name_label,
            "SR": lambda vdi, others: others.name(vdi.sr),
            "TYPE": lambda vdi, _: vdi.type,
            "SIZE": lambda vdi, _: size(vdi.virtual_size),
            "USED": lambda vdi, _: size(vdi.physical_utilisation),
            "READ-ONLY": lambda vdi, _: yes_no(vdi.read_only),
        },
        needs=("sr",),
        writable=True,
    )
)
