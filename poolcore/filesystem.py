"""Files: on which kind of file system a path is, and replacing a file durably.

The kind matters as far as SQLite's locks depend on it.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
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


def sync_directory(path: Path) -> None:
    """Make durable which files a directory has."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """The file is this content, or after a crash still the old one; durable on return.

    Readable to its owner only. OSError when the disk refuses: the old one is there then, and
    nothing beside it.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, path)
    except OSError:
        with suppress(OSError):  # the first error is the one to tell
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
