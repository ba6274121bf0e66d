"""Storage repositories."""

from __future__ import annotations

from typing import Any

from poolcli.nouns import Noun, Others, noun_app
from poolcli.text import size, yes_no


def _hosts(sr: Any, others: Others) -> str:
    names = sorted(others.name(pbd.host) for pbd in others.all("pbd") if pbd.sr == sr.uuid)
    return ", ".join(names)


app = noun_app(
    Noun(
        name="sr",
        help="Storage repositories.",
        columns={
            "NAME": lambda sr, _: sr.name_label,
            "TYPE": lambda sr, _: sr.type,
            "SHARED": lambda sr, _: yes_no(sr.shared),
            "SIZE": lambda sr, _: size(sr.physical_size),
            "USED": lambda sr, _: size(sr.physical_utilisation),
            "HOSTS": _hosts,
        },
        needs=("pbd", "host"),
        writable=True,
        order=lambda sr, others: (sr.shared, _hosts(sr, others), sr.name_label),
    )
)
