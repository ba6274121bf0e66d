"""A machine that systemd has booted, in namespaces of this one.

It has processes, mounts, control groups and a name of its own; the network is the test's, so its
daemons reach those outside. systemd knows the units that it is given and no others: nothing that a
distribution starts at boot is started, and nothing of the machine outside is changed.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

from support.lab_network import LabError, LabUnavailable, until

SYSTEMD = Path("/lib/systemd/systemd")
BOOT_SECONDS = 30.0
_TARGETS = {
    # What services want without being asked, as far as there is anything to it here.
    name: f"[Unit]\nDescription={name}\nDefaultDependencies=no\n"
    for name in (
        "sysinit.target",
        "basic.target",
        "shutdown.target",
        "multi-user.target",
        "network.target",
        "network-online.target",
    )
} | {
    "system.slice": "[Unit]\nDefaultDependencies=no\n",
    "-.slice": "[Unit]\nDefaultDependencies=no\n",
}
_INIT = """
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# What a kernel is told there is told to the machine outside.
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t tmpfs -o mode=755 tmpfs /var/lib
mkdir /var/lib/poolmember
mount --bind "$STATE" /var/lib/poolmember
hostname "$NAME"
exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \\
    SYSTEMD_UNIT_PATH="/run/systemd/transient:$UNITS" SYSTEMD_GENERATOR_PATH="$UNITS/none" \\
    SYSTEMD_LOG_TARGET=console \\
    "$SYSTEMD" --system --unit=multi-user.target --show-status=no
"""


class BootedMachine:
    """A context: the machine runs while it is entered. Raises `LabUnavailable` where none can.

    `units` are the texts of unit files by name. What is in `state_dir` it has in
    /var/lib/poolmember.
    """

    def __init__(self, folder: Path, units: Mapping[str, str]) -> None:
        self.state_dir = folder / "state"
        self._units = folder / "units"
        self._console = folder / "console"
        self._groups = _own_groups() / f"pmlab-{secrets.token_hex(3)}"
        self._power: subprocess.Popen[bytes] | None = None
        self._init = 0
        self.state_dir.mkdir()
        self._units.mkdir()
        for name, text in (_TARGETS | dict(units)).items():
            path = self._units / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    def __enter__(self) -> Self:
        if os.geteuid() != 0 or not SYSTEMD.exists():
            raise LabUnavailable("a machine with systemd needs root, and systemd to be installed")
        self._groups.mkdir()
        enter = f"echo $$ > {self._groups}/cgroup.procs"
        with self._console.open("ab") as console:
            self._power = subprocess.Popen(
                # It ends with the test, however that ends.
                ["setpriv", "--pdeathsig", "KILL", "sh", "-c", f'{enter} && exec "$@"', "sh",
                 "unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc",
                 "--cgroup", "--mount-proc", "--propagation", "private", "sh", "-c", _INIT],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                env={
                    "PATH": os.environ["PATH"],
                    "NAME": "booted",
                    "STATE": str(self.state_dir),
                    "UNITS": str(self._units),
                    "SYSTEMD": str(SYSTEMD),
                },
            )  # fmt: skip
        try:
            until(self._is_up, seconds=BOOT_SECONDS, what="systemd")
        except LabError as error:
            self.__exit__()
            raise LabError(f"{error}\n{self.console}") from error
        return self

    def __exit__(self, *_: object) -> None:
        """Cut the power."""
        assert self._power is not None
        self._power.send_signal(signal.SIGKILL)
        self._power.wait()
        until(self._is_empty, seconds=10, what="the end of all processes")
        for group in sorted(self._groups.rglob("*"), reverse=True):
            if group.is_dir():
                group.rmdir()
        self._groups.rmdir()

    @property
    def console(self) -> str:
        """What systemd wrote."""
        return self._console.read_text(errors="replace")

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command inside; its output. `LabError` unless it exits with 0."""
        done = subprocess.run(
            ["nsenter", f"--target={self._init}", "--mount", "--uts", "--ipc", "--pid", "--cgroup",
             "--", *command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise LabError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
        return done.stdout.strip()

    def shown(self, unit: str, key: str) -> str:
        """What `systemctl show` says of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={key}", unit)

    def units(self, pattern: str) -> list[str]:
        """The units that are loaded, by a pattern of their names."""
        listed = self.run("systemctl", "list-units", "--all", "--plain", "--no-legend", pattern)
        return [line.split()[0] for line in listed.splitlines()]

    def _is_up(self) -> bool:
        assert self._power is not None
        if self._power.poll() is not None:
            raise LabError(f"the machine ended with {self._power.poll()}")
        if not self._init:
            with suppress(FileNotFoundError):
                children = Path(f"/proc/{self._power.pid}/task/{self._power.pid}/children")
                self._init = int((children.read_text().split() or ["0"])[0])
            return False
        state = self.run("systemctl", "is-system-running", check=False)
        return state in {"running", "degraded"}

    def _is_empty(self) -> bool:
        return "populated 0" in (self._groups / "cgroup.events").read_text()


def _own_groups() -> Path:
    """Where control groups of version 2 are made."""
    for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        if (root / "cgroup.procs").exists() and (root / "cgroup.controllers").exists():
            return root
    raise LabUnavailable("there are no control groups of version 2 here")
