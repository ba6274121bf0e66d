"""Waiting until an object is as it should be."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poolcli.changes import as_json, field_of
from poolcli.failures import UsageError
from poolcli.nouns import COLLECTIONS, collection, show_object
from poolcli.output import Format, as_text
from poolcli.session import Session

if TYPE_CHECKING:
    from poolclient import PoolClient


async def wait(
    session: Session,
    what: Annotated[str, typer.Argument(metavar="KIND/NAME", help="For example vm/web1.")],
    condition: Annotated[
        str,
        typer.Option("--for", metavar="FIELD=VALUE", help="For example power_state=running."),
    ],
) -> None:
    """Wait until a field of an object has a value; of a list, until it contains it."""
    session.refuse_format(Format.SCRIPT)
    kind, slash, name = what.partition("/")
    if not slash or not name or kind not in COLLECTIONS:
        raise UsageError(f"{what!r} is not KIND/NAME.", f"Kinds: {', '.join(sorted(COLLECTIONS))}.")
    field, equals, value = condition.partition("=")
    if not equals or not field:
        raise UsageError(f"{condition!r} is not FIELD=VALUE.")
    import asyncio

    async with session.pool() as pool:
        try:
            async with asyncio.timeout(session.remaining):
                obj = await _until(pool, kind, name, field, value)
        except TimeoutError:
            from poolclient import TimedOut
            from poolcore.errors import Reason

            raise TimedOut(Reason.DEADLINE_PASSED, seconds=f"{session.given.timeout:g}") from None
    if session.format is not Format.TABLE:
        show_object(obj, session.format)


async def _until(pool: PoolClient, kind: str, name: str, field: str, value: str) -> Any:
    from poolclient import Cursor, NotFound
    from poolcore.errors import Reason
    from poolcore.model import Kind
    from poolcore.replica import Put

    obj, freshness = await collection(pool, kind).read(name)
    if _holds(obj, field, value):
        return obj
    since = Cursor(freshness.incarnation, freshness.revision)
    stream = pool.events(since=since, kinds=[Kind(kind)])
    async with aclosing(stream):
        async for event in stream:
            for change in event.changes:
                if isinstance(change, Put):
                    changed = change.object
                    if changed.uuid == obj.uuid and _holds(changed, field, value):
                        return changed
                elif change.uuid == obj.uuid:
                    raise NotFound(Reason.OBJECT_NOT_FOUND, kind=kind, name=name)
    raise AssertionError("the stream of events never ends")


def _holds(obj: Any, field: str, value: str) -> bool:
    found = field_of(as_json(obj), field)
    if isinstance(found, list):
        return value in map(as_text, found)
    return as_text(found) == value
