"""The hosts of the pool."""

from __future__ import annotations

from typing import Any

from poolcli.nouns import Noun, Others, noun_app
from poolcli.text import size, yes_no


def _metrics(host: Any, others: Others) -> Any:
    return next((m for m in others.all("host_metrics") if m.host == host.uuid), None)


def _live(host: Any, others: Others) -> str:
    metrics = _metrics(host, others)
    return yes_no(metrics.live) if metrics else ""


def _memory(host: Any, others: Others) -> str:
    metrics = _metrics(host, others)
    return size(metrics.memory_total) if metrics else ""


app = noun_app(
    Noun(
        name="host",
        help="The hosts of the pool.",
        columns={
            "NAME": lambda host, _: host.name_label,
            "ADDRESS": lambda host, _: host.address,
            "LIVE": _live,
            "VERSION": lambda host, _: host.software_version.product_version,
            "CPUS": lambda host, _: str(host.cpu.count),
            "MEMORY": _memory,
        },
        needs=("host_metrics",),
        writable=True,
        numbers=("failover_priority",),
    )
)
