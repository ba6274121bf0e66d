"""How backups and restores are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from poolcli.diff import object_json, show_objects
from poolcli.output import fields, note, table, write
from poolcli.text import safe

if TYPE_CHECKING:
    from poolclient import Backup, Restored, RestorePlan
    from poolcore.facts import StoredBackup


def file_json(backup: Backup) -> dict[str, Any]:
    """What a backup is, as scripts get it."""
    from poolcore.replica import plain

    header = backup.header
    return {
        "pool": {"uuid": header.pool, "name_label": header.pool_name},
        "incarnation": header.incarnation.counter,
        "incarnation_uuid": header.incarnation.uuid,
        "term": header.last.term,
        "revision": header.last.revision,
        "made": plain(header.made),
        "fresh": header.fresh,
        "product_version": header.product_version,
        "schema_version": header.schema_version,
        "objects": header.objects,
        "size_bytes": len(backup.data),
    }


def whole_json(backup: Backup) -> dict[str, Any]:
    """All of a backup: what it is, and every object by kind."""
    from poolcli.changes import as_json

    content: dict[str, list[Any]] = {}
    for obj in backup.state.objects():
        content.setdefault(obj.KIND.value, []).append(as_json(obj))
    return {**file_json(backup), "content": content}


def stored_json(stored: StoredBackup) -> dict[str, Any]:
    """A backup that a host has written, as scripts get it."""
    from poolcore.replica import plain

    return {
        "path": stored.path,
        "size_bytes": stored.size_bytes,
        "made": plain(stored.made),
        "pool": stored.pool,
        "pool_name": stored.pool_name,
        "incarnation": stored.incarnation.counter,
        "incarnation_uuid": stored.incarnation.uuid,
        "revision": stored.revision,
    }


def plan_json(backup: Backup, plan: RestorePlan, done: Restored | None) -> dict[str, Any]:
    """What a restore would change or, once it is done, has changed, as scripts get it."""
    from poolcore.replica import plain

    return {
        "backup": file_json(backup),
        "restored": done is not None,
        "commits": 0 if done is None else done.commits,
        "revision": plan.freshness.revision if done is None else done.revision,
        "fresh": not plan.freshness.stale,
        "objects": [object_json(item) for item in plan.objects],
        "left_alone": [plain(item) for item in plan.left_alone],
    }


def show_file(backup: Backup) -> None:
    """What a backup is, and how much of what is in it."""
    header = backup.header
    fields(
        [
            ("Pool", f"{header.pool_name}  {header.pool}"),
            ("Revision", f"{header.last.revision}, term {header.last.term}"),
            ("Incarnation", f"{header.incarnation.counter}  {header.incarnation.uuid}"),
            ("Made", f"{header.made:%Y-%m-%d %H:%M:%S} UTC"),
            ("Fresh", "yes" if header.fresh else "not confirmed by a master"),
            ("Written by", f"release {header.product_version}, schema {header.schema_version}"),
            ("Bytes", str(len(backup.data))),
        ]
    )
    counts = Counter(obj.KIND for obj in backup.state.objects())
    write("")
    table(["KIND", "OBJECTS"], [[kind.value, str(count)] for kind, count in counts.items()])


def show_stored(found: Sequence[StoredBackup]) -> None:
    """The backups that a host has written."""
    table(
        ["MADE", "POOL", "INCARNATION", "REVISION", "BYTES", "FILE"],
        [
            [
                f"{stored.made:%Y-%m-%d %H:%M:%S}",
                stored.pool_name,
                str(stored.incarnation.counter),
                str(stored.revision),
                str(stored.size_bytes),
                stored.path,
            ]
            for stored in found
        ],
    )


def show_plan(plan: RestorePlan) -> None:
    """What a restore changes, as `pool diff` shows it, and then what it leaves alone."""
    show_objects(plan.objects)
    if plan.left_alone:
        write(("\n" if plan.objects else "") + "Left alone:")
    for item in plan.left_alone:
        name = f"{safe(item.name_label)}  " if item.name_label else ""
        write(f"  {item.kind.value}  {name}{item.uuid}  {item.code}: {safe(item.explanation)}")


def tell_restored(backup: Backup, plan: RestorePlan, done: Restored | None) -> None:
    """What it came to, for the person rather than the script."""
    of = f"revision {backup.header.last.revision} of pool {safe(backup.header.pool_name)}"
    if done is None:
        note(f"Restoring {of} would change {_objects(len(plan.objects))}; nothing was changed.")
    elif not done.changed:
        note(f"Everything that can be restored is as in {of} already; nothing was changed.")
    else:
        note(f"Restored {of}: {_objects(done.changed)} changed (revision {done.revision}).")


def _objects(count: int) -> str:
    return f"{count} object{'' if count == 1 else 's'}"
