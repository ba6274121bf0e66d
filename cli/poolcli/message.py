"""What happened and administrators should know."""

from __future__ import annotations

from poolcli.nouns import Noun, noun_app

app = noun_app(
    Noun(
        name="message",
        help="What happened and administrators should know.",
        columns={
            "TIME": lambda message, _: f"{message.timestamp:%Y-%m-%d %H:%M:%S}",
            "NAME": lambda message, _: message.name,
            "PRIORITY": lambda message, _: str(message.priority),
            "BODY": lambda message, _: message.body,
        },
        order=lambda message, _: message.timestamp,
    )
)
