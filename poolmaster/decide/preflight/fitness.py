"""Row 23: the host's disk can carry the pool's metadata. Warnings only."""

from __future__ import annotations

from collections.abc import Iterator

from poolcore.model import Finding, Severity
from poolmaster.decide.preflight import remedies
from poolmaster.decide.preflight.case import Case
from poolmaster.decide.preflight.codes import Code

FREE_DISK_BYTES = 1024**3
"""Replica, store and their histories of a pool at its limit, several times over."""
FSYNC_SECONDS = 0.010


def disk_is_fit(case: Case) -> Iterator[Finding]:
    """Free space for replica and store; how long it takes until something is written for good."""
    free = case.joining.free_disk_bytes
    if free < FREE_DISK_BYTES:
        yield case.finding(
            Code.DISK_SPACE,
            severity=Severity.WARNING,
            expected=f"at least {FREE_DISK_BYTES // 1024**2} MiB free",
            actual=f"{free // 1024**2} MiB free",
            explanation=f"The state directory of {case.name} holds a replica of the pool; a full "
            "disk stops it."
            if case.joining.witness
            else f"The state directory of {case.name} holds a replica of the pool and, "
            "while it is master, the pool's store; a full disk stops both.",
            remedy=remedies.elsewhere(
                case,
                real="Make room, or move the state directory to a larger file system (`state_dir` "
                "in /etc/poolmember/config.toml); `df -h /var/lib/poolmember` shows the free "
                "space.",
                key="`free_disk_bytes`",
            ),
        )
    seconds = case.joining.fsync_seconds
    if not seconds <= FSYNC_SECONDS:
        yield case.finding(
            Code.SLOW_FSYNC,
            severity=Severity.WARNING,
            expected=f"at most {FSYNC_SECONDS * 1000:g} ms",
            actual=f"{seconds * 1000:.1f} ms",
            explanation=f"Writing for good takes {seconds * 1000:.1f} ms on {case.name}: "
            + (
                "it has every change to the pool so much later."
                if case.joining.witness
                else "while it is master, every change to the pool waits that long."
            ),
            remedy=remedies.elsewhere(
                case,
                real="Put the state directory on a local SSD with power-loss protection, or keep "
                "the mastership on another host.",
                key="`fsync_seconds`",
            ),
        )
