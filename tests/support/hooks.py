"""Hooks that tests write: shell scripts, in a directory that the daemon trusts."""

from __future__ import annotations

from pathlib import Path

RECORD = """
printf '%s %s %s %s\\n' "${0##*/}" "$POOL_ROLE" "$POOL_NAME" "$POOL_MASTER" >> "$(dirname "$0")/ran"
"""
"""Writes a line to the file `ran`: which hook, and what it was told."""


def write_hook(folder: Path, name: str, script: str = RECORD, *, mode: int = 0o755) -> Path:
    """A hook that is this shell script."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(mode)
    return path


def ran(folder: Path) -> list[str]:
    """What the hooks of a directory have recorded, a line each."""
    record = folder / "ran"
    return record.read_text().splitlines() if record.exists() else []
