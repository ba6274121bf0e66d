"""What happens in the pool, as it happens."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poolcli.changes import as_json
from poolcli.failures import UsageError
from poolcli.nouns import label
from poolcli.output import Format, note, write
from poolcli.session import Session
from poolcli.text import safe, to_json, to_yaml

if TYPE_CHECKING:
    from poolclient import Event
    from poolcore.model import Kind
    from poolcore.replica import Change


async def events(
    session: Session,
    since: Annotated[
        int | None,
        typer.Option("--since", metavar="REVISION", min=0, help="Those after this revision, too."),
    ] = None,
    types: Annotated[
        str, typer.Option("--types", metavar="KIND[,KIND…]", help="Only these, such as vm,host.")
    ] = "",
    number: Annotated[
        int | None, typer.Option("--count", metavar="N", min=1, help="End after N of them.")
    ] = None,
) -> None:
    """Show every change as it is committed, until interrupted; -o json gives JSON Lines."""
    session.refuse_format(Format.SCRIPT)
    kinds = _kinds(types)
    left = number
    async with session.pool() as pool:
        stream = pool.events(
            since=since,
            kinds=kinds,
            on_break=lambda why: note(f"Note: the stream broke ({why}); going on."),
        )
        async with aclosing(stream):
            async for event in stream:
                for change in event.changes:
                    _show(event, change, session.format)
                    left = None if left is None else left - 1
                    if left == 0:
                        return


def _kinds(types: str) -> list[Kind]:
    from poolcore.model import Kind

    names = [name.strip().lower() for name in types.split(",") if name.strip()]
    unknown = [name for name in names if name not in set(Kind)]
    if unknown:
        raise UsageError(f"There is no type {unknown[0]!r}.", f"Types: {', '.join(Kind)}.")
    return [Kind(name) for name in names]


def _show(event: Event, change: Change, shown_as: Format) -> None:
    from poolcore.replica import Put

    obj = change.object if isinstance(change, Put) else None
    kind = change.object.KIND if isinstance(change, Put) else change.kind
    uuid = change.object.uuid if isinstance(change, Put) else change.uuid
    what = "put" if obj is not None else "remove"
    name = safe(label(obj)) if obj is not None else uuid
    if shown_as is Format.TABLE:
        write(f"{event.revision:>8}  {what:<6}  {kind.value:<12}  {name}")
    elif shown_as is Format.NAME:
        write(f"{kind.value}/{name}")
    else:
        value: dict[str, Any] = {
            "revision": event.revision,
            "term": event.term,
            "incarnation": event.incarnation,
            "type": what,
            "kind": kind.value,
            "uuid": uuid,
            "object": as_json(obj) if obj is not None else None,
        }
        write(
            "---\n" + to_yaml(value).rstrip()
            if shown_as is Format.YAML
            else to_json(value, indent=None)
        )
