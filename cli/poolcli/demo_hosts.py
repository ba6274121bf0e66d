"""The demo's hosts: daemons of this machine on loopback addresses, with simulated hypervisors.

A record of what was started is kept for as long as anything runs, so that `pool demo --stop`, or
the next demo, can end what an earlier one left behind.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from poolcli.failures import UsageError

PORT = 7443
READY_SECONDS = 15.0
STOP_SECONDS = 5.0
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end the demo."""

_SHARED_SR = """
[[sr]]
name = "{name}"
type = "{type}"
shared = true
"""

FILES: Mapping[str, str] = {
    "phantom": "# As fresh, with three shared SRs and two VMs.\n"
    + _SHARED_SR.format(name="nfs-images", type="nfs")
    + _SHARED_SR.format(name="nfs-iso", type="nfs")
    + _SHARED_SR.format(name="iscsi-fast", type="iscsi")
    + """
[[vm]]
name = "web1"
power_state = "running"
memory_mib = 512

[[vm]]
name = "db1"
power_state = "halted"
memory_mib = 2048
""",
    "ignite": "# A fresh host.\n",
    "specter": "# A fresh host.\n",
    "misfit": """# A host that fits into no pool like this one.
product_version = "0.0.9"
clock_skew_seconds = 3.5

[[vm]]
name = "leftover"
power_state = "halted"
memory_mib = 256

[[network]]
name = "storage-net"
bridge = "xenbr1"

[[sr]]
name = "nfs-old"
type = "nfs"
shared = true
""",
}
"""The simulated host files, in the order of the hosts' addresses 127.0.0.1, 127.0.0.2 …"""
FOUNDER = "phantom"
"""Founds its pool in a file that those who join share, so that each of them can be master."""


def record_path() -> Path:
    """Where a running demo is recorded."""
    runtime = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return Path(runtime) / f"pool-demo-{os.getuid()}.json"


def free_port() -> int:
    """A port that is free at all of the hosts' addresses: the default one if possible."""
    candidates: tuple[int, ...] = (PORT, *range(17443, 17543))
    for candidate in candidates:
        if all(_is_free(f"127.0.0.{n}", candidate) for n in range(1, len(FILES) + 1)):
            return candidate
    raise UsageError("No port from 17443 to 17542 is free at 127.0.0.1 to 127.0.0.4.")


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def daemon_command() -> list[str]:
    """How to start poolmember: the one that was installed beside this command."""
    beside = Path(sys.executable).with_name("poolmember")
    found = str(beside) if beside.exists() else shutil.which("poolmember")
    if found is None:
        raise UsageError("The command poolmember is not installed.")
    return [found]


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A block during which Ctrl-C and signals to end wait: a process is started and noted, or not.

    They raise `KeyboardInterrupt` behind it.
    """
    pending: list[int] = []

    def note(number: int, _: object) -> None:
        pending.append(number)

    before = {number: signal.signal(number, note) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if pending:
        raise KeyboardInterrupt


class Hosts:
    """The daemons; a context manager that ends them unless they are to be kept."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pool-demo-"))
        port = free_port()
        self.addresses = {name: f"127.0.0.{n}:{port}" for n, name in enumerate(FILES, start=1)}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.keep = False

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *_: object) -> None:
        if self.keep:
            return
        with uninterrupted():
            end({name: p.pid for name, p in self._processes.items()}, self.folder)
            for process in self._processes.values():
                process.wait()

    def start(self, name: str) -> None:
        """Start a host; it is not ready yet when this returns."""
        home = self.folder / name
        home.mkdir(exist_ok=True)
        file = home / "host.toml"
        file.write_text(FILES[name])
        command = [
            *daemon_command(), "run", "--name", name, "--listen", self.addresses[name],
            "--state-dir", str(home / "state"), "--driver", f"sim:{file}",
        ]  # fmt: skip
        if name == FOUNDER:
            command.append(f"--store=sqlite://{self.folder / 'pool.db'}")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("POOLMEMBER_")}
        with (home / "log").open("ab") as log, uninterrupted():
            # A session of its own: Ctrl-C is for the demo, which then ends its hosts in order.
            self._processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
            self._record()

    def kill(self, name: str) -> None:
        """End a host's daemon as a power cut would."""
        self._processes[name].kill()
        self._processes[name].wait()

    def check(self, name: str) -> None:
        """Raise if the host's daemon has ended."""
        code = self._processes[name].poll()
        if code is not None:
            log = (self.folder / name / "log").read_text(errors="replace")
            raise UsageError(f"poolmember for {name} ended with {code}.", log[-1500:].strip())

    def _record(self) -> None:
        pids = {name: process.pid for name, process in self._processes.items()}
        record = {"folder": str(self.folder), "pids": pids}
        record_path().write_text(json.dumps(record))


def end(pids: Mapping[str, int], folder: Path) -> None:
    """End daemons that live in `folder` and remove it with the record."""
    ours = [pid for pid in pids.values() if _is_ours(pid, folder)]
    for pid in ours:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline and any(_is_ours(pid, folder) for pid in ours):
        time.sleep(0.02)
    for pid in ours:
        if _is_ours(pid, folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)
    record_path().unlink(missing_ok=True)


def end_recorded() -> bool:
    """End what an earlier demo left running; whether there was anything."""
    try:
        record = json.loads(record_path().read_text())
        pids = {str(name): int(pid) for name, pid in record["pids"].items()}
        folder = Path(record["folder"])
    except (OSError, ValueError, KeyError, AttributeError):
        return False
    if not folder.name.startswith("pool-demo-"):
        return False
    end(pids, folder)
    return True


def _is_ours(pid: int, folder: Path) -> bool:
    """Whether the process runs and was started in `folder`: a pid may have been given anew."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return str(folder).encode() in command and state != "Z"
