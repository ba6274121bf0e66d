"""Tagged interfaces."""

from __future__ import annotations

from typing import Any

from poolcli.nouns import Noun, Others, noun_app


def _host(vlan: Any, others: Others) -> str:
    pif = others.get(vlan.tagged_pif)
    return others.name(pif.host) if pif else ""


app = noun_app(
    Noun(
        name="vlan",
        help="Tagged interfaces of hosts.",
        columns={
            "HOST": _host,
            "TAG": lambda vlan, _: str(vlan.tag),
            "TAGGED": lambda vlan, others: others.name(vlan.tagged_pif),
            "UNTAGGED": lambda vlan, others: others.name(vlan.untagged_pif),
        },
        needs=("pif", "host"),
        order=lambda vlan, others: (_host(vlan, others), vlan.tag),
    )
)
