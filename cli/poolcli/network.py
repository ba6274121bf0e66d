"""The networks of the pool."""

from __future__ import annotations

from typing import Any

from poolcli.nouns import Noun, Others, noun_app
from poolcli.text import yes_no


def _hosts(network: Any, others: Others) -> str:
    hosts = {others.name(pif.host) for pif in others.all("pif") if pif.network == network.uuid}
    return ", ".join(sorted(hosts))


app = noun_app(
    Noun(
        name="network",
        help="The networks of the pool.",
        columns={
            "NAME": lambda network, _: network.name_label,
            "BRIDGE": lambda network, _: network.bridge,
            "MTU": lambda network, _: str(network.mtu),
            "DEFAULT": lambda network, _: yes_no(network.default),
            "HOSTS": _hosts,
        },
        needs=("pif", "host"),
        writable=True,
    )
)
