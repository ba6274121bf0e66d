"""Tunnels between hosts."""

from __future__ import annotations

from typing import Any

from poolcli.nouns import Noun, Others, noun_app


def _host(tunnel: Any, others: Others) -> str:
    pif = others.get(tunnel.access_pif)
    return others.name(pif.host) if pif else ""


app = noun_app(
    Noun(
        name="tunnel",
        help="Tunnels between hosts.",
        columns={
            "HOST": _host,
            "PROTOCOL": lambda tunnel, _: tunnel.protocol,
            "ACCESS": lambda tunnel, others: others.name(tunnel.access_pif),
            "TRANSPORT": lambda tunnel, others: others.name(tunnel.transport_pif),
        },
        needs=("pif", "host"),
        order=lambda tunnel, others: (_host(tunnel, others), tunnel.protocol),
    )
)
