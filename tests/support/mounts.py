"""Mount namespaces, for daemons that see another file system than everybody else."""

from __future__ import annotations

import subprocess

import pytest


def _are_permitted() -> bool:
    probe = ["unshare", "--mount", "true"]
    return subprocess.run(probe, check=False, capture_output=True).returncode == 0


needs_own_mounts = pytest.mark.skipif(
    not _are_permitted(), reason="only root may give a daemon mounts of its own"
)


def with_mounts(script: str, *arguments: str) -> tuple[str, ...]:
    """The beginning of a command that runs `script` in a mount namespace of its own first.

    `script` finds `arguments` as `$1` …; the command that follows keeps its process id.
    """
    shift = f"shift {len(arguments)}" if arguments else ":"
    shell = f'{script} && {shift} && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", shell, "sh", *arguments)
