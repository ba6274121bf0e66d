"""Several interfaces of a host used as one."""

from __future__ import annotations

from typing import Any

from poolcli.nouns import Noun, Others, noun_app


def _host(bond: Any, others: Others) -> str:
    pif = others.get(bond.master)
    return others.name(pif.host) if pif else ""


app = noun_app(
    Noun(
        name="bond",
        help="Several interfaces of a host used as one.",
        columns={
            "HOST": _host,
            "DEVICE": lambda bond, others: others.name(bond.master),
            "INTERFACES": lambda bond, others: ", ".join(map(others.name, bond.slaves)),
            "MODE": lambda bond, _: bond.mode,
        },
        needs=("pif", "host"),
        order=lambda bond, others: (_host(bond, others), others.name(bond.master)),
    )
)
