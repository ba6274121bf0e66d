"""Rows 23 and 24: disk and etcd of the host can carry the pool's metadata."""

from __future__ import annotations

from collections.abc import Iterator

from poolcore.model import Finding, Severity
from poolmaster.decide.preflight import remedies
from poolmaster.decide.preflight.case import Case, shown
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
                "every change to the pool waits for a majority of the disks of those that vote."
                if case.would_vote
                else "it has every change to the pool so much later."
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


def etcd_is_fit(case: Case) -> Iterator[Finding]:
    """A host that is to vote has an etcd that the pool trusts its metadata to."""
    problem, version = case.joining.etcd_problem, case.joining.etcd_version
    if not case.would_vote or problem is None:
        return
    yield case.finding(
        Code.ETCD_MISSING if version is None else Code.ETCD_VERSION_REFUSED,
        expected="etcd from 3.4.22 on, but not 3.5.0 to 3.5.5",
        actual="no etcd" if version is None else f"etcd {shown(version)}",
        explanation=f"With {case.name} the pool has hosts enough to keep its metadata in an etcd "
        f"of its own, and {case.name} would vote there; {shown(problem)}.",
        remedy=remedies.elsewhere(
            case,
            real="Install it with `apt-get install etcd-server`; the service that comes with the "
            "package is not needed, `systemctl disable --now etcd` ends it. Or start poolmember "
            "there with --no-voter: then the pool founds no etcd with it, and a person replaces a "
            "master that is lost.",
            key="`etcd_version`",
        ),
    )
