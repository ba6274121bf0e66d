"""Messages: what happened and an administrator should learn of, the newest of them kept."""

from __future__ import annotations

from datetime import datetime

from poolcore.model import Kind, Message, MessageId, derived_uuid
from poolcore.replica import Change, Put, Remove, State

MESSAGES_KEPT = 500
"""How many messages a pool has at most."""


def noted(
    state: State,
    name: str,
    *,
    cls: Kind,
    obj: str,
    now: datetime,
    priority: int,
    body: str,
) -> tuple[Change, ...]:
    """The changes that leave a message about an object; the oldest beyond `MESSAGES_KEPT` go.

    `priority` is XAPI's scale (`Message`). `name` is for programs, `body` for people.
    """
    # Another one each time, and the same if the same commit is decided anew.
    uuid = derived_uuid(obj, Kind.MESSAGE, f"{name}.{state.revision}")
    message = Message(
        uuid=MessageId(uuid),
        name=name,
        priority=priority,
        cls=cls,
        obj_uuid=obj,
        timestamp=now,
        body=body,
    )
    kept = sorted(state.all(Message), key=lambda m: (m.timestamp, m.uuid))
    surplus = kept[: max(len(kept) + 1 - MESSAGES_KEPT, 0)]
    return (Put(message), *(Remove(Kind.MESSAGE, m.uuid) for m in surplus))
