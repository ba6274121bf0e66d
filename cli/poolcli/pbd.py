"""The connections of hosts to storage repositories."""

from __future__ import annotations

from poolcli.nouns import Noun, noun_app
from poolcli.text import yes_no

app = noun_app(
    Noun(
        name="pbd",
        help="The connections of hosts to storage repositories.",
        columns={
            "HOST": lambda pbd, others: others.name(pbd.host),
            "SR": lambda pbd, others: others.name(pbd.sr),
            "ATTACHED": lambda pbd, _: yes_no(pbd.currently_attached),
        },
        needs=("host", "sr"),
        order=lambda pbd, others: (others.name(pbd.host), others.name(pbd.sr)),
    )
)
