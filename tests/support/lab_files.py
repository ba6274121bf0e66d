"""What stands on a lab host's disk before its first start, and what its init process does."""

from __future__ import annotations

import shlex
import shutil
import uuid
from pathlib import Path

_LIBVIRTD_CONF = """\
host_uuid = "{host_uuid}"
listen_addr = "{address}"
listen_tcp = 1
listen_tls = 0
auth_tcp = "none"
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
"""

_QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
remember_owner = 0
migration_address = "{address}"
migration_host = "{address}"
"""

_STOCK_POOL = """\
<pool type='dir'>
  <name>default</name>
  <uuid>{uuid}</uuid>
  <target><path>/var/lib/libvirt/images</path></target>
</pool>
"""

# The first process of a host has to be a shell: it reaps what others leave behind, which libvirtd
# does not.
_INIT = """\
set -e
hostname {name}
mount -t tmpfs tmpfs /run
mount --bind {directory}/etc /etc/libvirt
mount --bind {directory}/lib /var/lib/libvirt
mount --bind {directory}/cache /var/cache/libvirt
mount --bind {directory}/log /var/log/libvirt
mount --bind {directory}/hosts /etc/hosts
mount --bind {directory}/resolv.conf /etc/resolv.conf
set +e
while :; do
    [ -e /run/keep-libvirtd-down ] || libvirtd --listen --pid-file /run/libvirtd.pid
    sleep 0.05
done
"""


def write(directory: Path, *, host_uuid: str, address: str, stock_pool: bool, cache: Path) -> None:
    """Fill the host's disk: what the packages put on a fresh host, and the lab's settings.

    `cache`: what libvirtd has found out about the emulators, if it has.
    """
    # Copied from the packages, so that the stock network is theirs and not one made to fit.
    for own, original in (("etc", "/etc/libvirt"), ("lib", "/var/lib/libvirt")):
        shutil.copytree(original, directory / own, symlinks=True)
    if cache.exists():
        shutil.copytree(cache, directory / "cache")
    for own in ("cache", "log", "lib/images", "home"):
        (directory / own).mkdir(exist_ok=True)
    settings = {"host_uuid": host_uuid, "address": address}
    (directory / "etc/libvirtd.conf").write_text(_LIBVIRTD_CONF.format_map(settings))
    (directory / "etc/qemu.conf").write_text(_QEMU_CONF.format_map(settings))
    # A name server that refuses at once: outside names fail quickly instead of after a timeout.
    (directory / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    if stock_pool:
        # The tools that create guests define it on first use; here it is there from the start.
        pools = directory / "etc/storage"
        (pools / "autostart").mkdir(parents=True, exist_ok=True)
        (pools / "default.xml").write_text(_STOCK_POOL.format(uuid=uuid.uuid4()))
        (pools / "autostart/default.xml").symlink_to("/etc/libvirt/storage/default.xml")


def init_script(name: str, directory: Path) -> str:
    """The shell script of the host's first process."""
    return _INIT.format(name=shlex.quote(name), directory=shlex.quote(str(directory)))
