"""What changed between two revisions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poolcli.failures import UsageError
from poolcli.output import Format, data, note, write
from poolcli.session import Session
from poolcli.text import safe

if TYPE_CHECKING:
    from poolclient import Difference
    from poolcore.difference import ObjectDifference

FORM = "REV..REV, REV.. or REV; `pool status` tells the newest revision."
REVISION_DIGITS = 18


async def diff(
    session: Session,
    revisions: Annotated[
        str,
        typer.Argument(
            metavar="REV[..REV]",
            help="From which revision up to which; up to now if there is no second one.",
        ),
    ],
) -> None:
    """Show what was created, changed and removed between two revisions, and by which requests.

    What was changed and changed back in between is left out.
    """
    session.refuse_format(Format.SCRIPT)
    since, until = parsed_range(revisions)
    async with session.pool() as pool:
        found = await pool.diff(since, until)
    if session.format is Format.TABLE:
        show_difference(found)
    elif session.format is Format.NAME:
        for item in found.objects:
            write(f"{item.kind.value}/{safe(item.name_label or item.uuid)}")
    else:
        data(difference_json(found), session.format)


def parsed_range(text: str) -> tuple[int, int | None]:
    """The two revisions of `REV..REV`, `REV..` or `REV`; the second is none for now."""
    first, _, second = text.partition("..")
    return _revision(first), _revision(second) if second else None


def _revision(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= REVISION_DIGITS):
        raise UsageError(f"{text!r} is no revision.", FORM)
    return int(text)


def difference_json(found: Difference) -> dict[str, Any]:
    """The difference as scripts get it."""
    return {
        "since": found.since,
        "until": found.until,
        "incarnation_uuid": found.freshness.incarnation,
        "fresh": not found.freshness.stale,
        "objects": [object_json(item) for item in found.objects],
    }


def object_json(item: ObjectDifference) -> dict[str, Any]:
    """What became of an object, as scripts get it."""
    from poolcore.replica import plain

    return {
        "kind": item.kind.value,
        "uuid": item.uuid,
        "name_label": item.name_label,
        "outcome": item.outcome.value,
        "before_kept": item.before_kept,
        "before": plain(item.before),
        "after": plain(item.after),
        "fields": plain(item.fields),
        "commits": plain(item.touches),
    }


def show_difference(found: Difference) -> None:
    """The difference as people get it: a paragraph for each object."""
    if not found.objects:
        note(f"Nothing differs between revisions {found.since} and {found.until}.")
    show_objects(found.objects)


def show_objects(objects: Sequence[ObjectDifference]) -> None:
    """A paragraph for each object: what became of it, by which commits, field by field."""
    for number, item in enumerate(objects):
        if number:
            write("")
        name = f"{safe(item.name_label)}  " if item.name_label else ""
        write(f"{item.kind.value}  {name}{item.uuid}  {item.outcome.value}")
        for touch in item.touches:
            by = f", request {safe(touch.request_id)}" if touch.request_id else ""
            write(f"    revision {touch.revision}, term {touch.term}{by}")
        if not item.before_kept:
            write("    before: not kept")
        elif item.before is not None and item.after is not None:
            for change in item.fields:
                before, after = _value(change.before), _value(change.after)
                write(f"    {safe(change.field)}: {before} → {after}")


def _value(value: Any) -> str:
    return "none" if value is None else safe(json.dumps(value, ensure_ascii=False))
