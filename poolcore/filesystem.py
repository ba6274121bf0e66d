"""On which kind of file system a path is, as far as SQLite's locks depend on it."""

from __future__ import annotations

import os
import re
from pathlib import Path

# Between machines, or between processes on one, their locks and shared memory are not reliable.
NETWORK_FILESYSTEMS = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse.ceph", "fuse.ceph-fuse",
        "fuse.cephfs", "fuse.glusterfs", "fuse.lizardfs", "fuse.moosefs", "fuse.mfs",
        "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "gfs", "gfs2", "glusterfs", "gpfs", "lustre",
        "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb3", "smbfs",
    }
)  # fmt: skip


def network_filesystem(path: Path, *, mountinfo: str | None = None) -> str | None:
    """The type of the network file system that `path` is on, such as `nfs4`; none on a local one.

    `path` need not exist. `mountinfo` is the text of /proc/self/mountinfo, for tests.
    """
    text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
    place = os.path.realpath(path)
    kind, depth = "", -1
    for line in text.splitlines():
        mount, _, source = line.partition(" - ")
        point = _unescaped(mount.split(" ")[4])
        # A later mount covers an earlier one at the same place.
        if _contains(point, place) and len(point) >= depth:
            kind, depth = source.split(" ")[0], len(point)
    return kind if kind in NETWORK_FILESYSTEMS else None


def _contains(point: str, place: str) -> bool:
    return place == point or place.startswith(point if point == "/" else point + "/")


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
