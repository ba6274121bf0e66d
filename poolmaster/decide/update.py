"""The administrative writes: what may be named, described and tagged, and how.

Every limit here is refused with the field's name and the limit itself, so that a person can act on
it; nothing is cut short silently.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from immutables import Map

from poolcore.errors import PoolError, Reason
from poolcore.model import BackupSchedule, Described, FailoverTimings, Host, Pool

D = TypeVar("D", bound=Described)

NAME_LIMIT = 255
DESCRIPTION_LIMIT = 4_096
TAG_LIMIT = 255
TAGS_LIMIT = 256
KEY_LIMIT = 255
VALUE_LIMIT = 65_536
ENTRIES_LIMIT = 1_024
PRIORITY_LIMIT = 1_000
HOST_LIMIT = 64
BACKUP_LIMITS: Mapping[str, tuple[int, int]] = {
    "interval_minutes": (0, 7 * 24 * 60),
    "keep": (1, 1_000),
    "keep_daily": (0, 1_000),
}
"""The least and the most that each of `BackupSchedule` may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataPatch:
    """What to change of an object that administrators name, describe and tag."""

    name_label: str | None = None
    name_description: str | None = None
    add_tags: frozenset[str] = frozenset()
    remove_tags: frozenset[str] = frozenset()
    set_other_config: Mapping[str, str] = field(default_factory=dict)
    remove_other_config: frozenset[str] = frozenset()


def invalid(field_name: str, problem: str) -> PoolError:
    """The refusal of a value."""
    return PoolError(Reason.INVALID_VALUE, field=field_name, problem=problem)


def checked_text(
    field_name: str, text: str, limit: int, *, empty: bool = False, lines: bool = False
) -> str:
    """`text` if it is of at most `limit` characters, none of them a control character.

    `empty` permits the empty text, `lines` permits line ends and tabs.
    """
    if not text.strip() and not (empty and not text):
        raise invalid(field_name, "must not be empty or blank")
    if len(text) > limit:
        raise invalid(field_name, f"has {len(text)} characters, at most {limit} are allowed")
    for position, char in enumerate(text):
        if unicodedata.category(char) in {"Cc", "Cs"} and not (lines and char in "\n\t"):
            raise invalid(
                field_name,
                f"has the control character U+{ord(char):04X} at position {position + 1}",
            )
    return text


def checked_name(name: str) -> str:
    """A name that an object may have."""
    return checked_text("name_label", name, NAME_LIMIT)


def prioritized(host: Host, priority: int) -> Host:
    """The host with that priority when a master is chosen; `HOST_IS_WITNESS` for a witness."""
    if not 0 <= priority <= PRIORITY_LIMIT:
        raise invalid("failover_priority", f"must be from 0 to {PRIORITY_LIMIT:,}")
    if host.witness:
        problem = "its failover_priority stays 0, as it never becomes master"
        raise PoolError(Reason.HOST_IS_WITNESS, host=host.name_label, problem=problem)
    return replace(host, failover_priority=priority)


def limited(pool: Pool, hosts: int) -> Pool:
    """The pool when it may have so many hosts."""
    if not 1 <= hosts <= HOST_LIMIT:
        raise invalid("host_limit", f"must be from 1 to {HOST_LIMIT}")
    return replace(pool, host_limit=hosts)


def scheduled(schedule: BackupSchedule, changes: Mapping[str, int]) -> BackupSchedule:
    """The schedule of backups after `changes`, by name."""
    for name, number in changes.items():
        least, most = BACKUP_LIMITS[name]
        if not least <= number <= most:
            raise invalid(f"backup.{name}", f"must be from {least} to {most:,}")
    return replace(schedule, **changes)


TIMING_LIMITS: Mapping[str, tuple[float, float]] = {
    "heartbeat_seconds": (0.02, 1.0),
    "suspect_seconds": (0.1, 60.0),
    "vote_seconds": (0.05, 10.0),
    "confirm_seconds": (0.2, 60.0),
    "alive_seconds": (1.0, 600.0),
    "in_step_seconds": (0.1, 60.0),
    "replace_voter_seconds": (1.0, 86_400.0),
}
"""The least and the most that each of `FailoverTimings` may be."""


def timed(timings: FailoverTimings, changes: Mapping[str, float]) -> FailoverTimings:
    """The timings after `changes`, by name; `INVALID_VALUE` when they do not go together."""
    for name, seconds in changes.items():
        least, most = TIMING_LIMITS[name]
        # Written so that what is no number at all is refused too.
        if not least <= seconds <= most:
            raise invalid(f"failover.{name}", f"must be from {least:g} to {most:g} seconds")
    after = replace(timings, **changes)
    for longer, factor, shorter in (
        ("suspect_seconds", 3, "heartbeat_seconds"),
        ("suspect_seconds", 1, "vote_seconds"),
        ("alive_seconds", 2, "confirm_seconds"),
    ):
        if getattr(after, longer) < factor * getattr(after, shorter):
            times = f"{factor} × failover." if factor > 1 else "failover."
            raise invalid(f"failover.{longer}", f"must be at least {times}{shorter}")
    return after


def patched(obj: D, patch: MetadataPatch) -> D:
    """The object after the patch; `INVALID_VALUE` for the first value that is not allowed."""
    name, description = obj.name_label, obj.name_description
    if patch.name_label is not None:
        name = checked_name(patch.name_label)
    if patch.name_description is not None:
        description = checked_text(
            "name_description", patch.name_description, DESCRIPTION_LIMIT, empty=True, lines=True
        )
    return replace(
        obj,
        name_label=name,
        name_description=description,
        tags=_tags(obj.tags, patch.add_tags, patch.remove_tags),
        other_config=_entries(obj.other_config, patch.set_other_config, patch.remove_other_config),
    )


def _tags(tags: frozenset[str], add: frozenset[str], remove: frozenset[str]) -> frozenset[str]:
    if both := add & remove:
        raise invalid("tags", f"{min(both)!r} is both added and removed")
    for tag in add:
        checked_text("tags", tag, TAG_LIMIT)
    after = (tags | add) - remove
    if len(after) > TAGS_LIMIT:
        raise invalid("tags", f"would be {len(after)}, at most {TAGS_LIMIT} are allowed")
    return after


def _entries(
    entries: Mapping[str, str], add: Mapping[str, str], remove: Iterable[str]
) -> Mapping[str, str]:
    for key, value in add.items():
        checked_text("other_config", key, KEY_LIMIT)
        checked_text(f"other_config.{key}", value, VALUE_LIMIT, empty=True, lines=True)
    after = {**entries, **add}
    for key in remove:
        after.pop(key, None)
    if len(after) > ENTRIES_LIMIT:
        raise invalid(
            "other_config", f"would have {len(after)} entries, at most {ENTRIES_LIMIT} are allowed"
        )
    return Map(after)
