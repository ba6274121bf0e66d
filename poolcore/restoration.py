"""What a restore leaves alone of a backup, and why. Pure values."""

from __future__ import annotations

from dataclasses import dataclass

from poolcore.model import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftAlone:
    """An object of a backup that a restore leaves alone, wholly or in part."""

    kind: Kind
    uuid: str
    name_label: str = ""
    """Its name in the backup; empty if it has none."""
    code: str
    """Why, for scripts; `poolmaster.decide.restore` has them all."""
    explanation: str
    """Why, for people: a sentence without its full stop."""
