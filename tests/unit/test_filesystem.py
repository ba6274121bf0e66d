from pathlib import Path

import pytest

from poolcore.filesystem import network_filesystem

MOUNTS = r"""
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:5 / /proc rw,nosuid - proc proc rw
30 21 0:40 / /srv rw,relatime shared:5 - nfs4 filer:/srv rw,vers=4.2
31 30 8:2 / /srv/local rw,relatime - xfs /dev/sdb1 rw
32 21 0:41 / /mnt/two\040words rw - cifs //filer/x rw
33 21 0:42 / /mnt/covered rw - nfs filer:/x rw
34 33 8:3 / /mnt/covered rw - ext4 /dev/sdc1 rw
35 21 0:43 / /mnt/ssh rw - fuse.sshfs user@host: rw
36 21 0:44 / /mnt/disk rw - fuseblk /dev/sdd1 rw
""".strip()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", None),
        ("/var/lib/poolmember", None),
        ("/srv", "nfs4"),
        ("/srv/pool", "nfs4"),
        ("/srv/not/there/yet", "nfs4"),
        ("/srvice", None),
        ("/srv/local/pool", None),
        ("/mnt/two words/pool", "cifs"),
        ("/mnt/covered/pool", None),
        ("/mnt/ssh", "fuse.sshfs"),
        ("/mnt/disk", None),
    ],
)
def test_the_mount_that_holds_a_path_decides(path: str, kind: str | None) -> None:
    assert network_filesystem(Path(path), mountinfo=MOUNTS) == kind


def test_a_link_leads_to_where_it_points(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    mounts = f"1 0 8:1 / / rw - ext4 a rw\n2 1 0:1 / {tmp_path / 'target'} rw - nfs b rw"
    assert network_filesystem(tmp_path / "link" / "pool", mountinfo=mounts) == "nfs"


def test_this_machine_is_asked_by_default() -> None:
    assert network_filesystem(Path("/proc")) is None
