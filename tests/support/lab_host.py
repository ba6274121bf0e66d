"""One host of a lab: its namespaces and power switch, its libvirtd, commands and daemons inside."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from support import lab_files
from support.lab_network import LabError, Switch, ip, until

POOLMEMBER_PORT = 7443
_LISTEN = "0A"
"""The state of a listening socket in /proc/net/tcp."""


class HostProcess:
    """A process inside a host, started from outside; `pid` is the one the outside sees."""

    def __init__(self, wrapper: subprocess.Popen[str], command: Sequence[str]) -> None:
        self.wrapper = wrapper
        self._command = " ".join(command)
        # nsenter has to fork to get into a pid namespace: the process itself is its child.
        until(
            lambda: bool(_children(wrapper.pid)) or wrapper.poll() is not None,
            seconds=5,
            what=f"the start of {self._command}",
        )
        self.pid = next(iter(_children(wrapper.pid)), wrapper.pid)

    @property
    def stdin(self) -> IO[str] | None:
        """Its standard input, if it was asked for."""
        return self.wrapper.stdin

    @property
    def stdout(self) -> IO[str] | None:
        """Its standard output, if it was asked for."""
        return self.wrapper.stdout

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the process itself, if it still runs."""
        if self.wrapper.poll() is None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    def wait(self, timeout: float = 10) -> int:
        """Its exit code; a signal's as 128 + number."""
        try:
            return self.wrapper.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{self._command} did not end within {timeout} s") from error

    def poll(self) -> int | None:
        """Its exit code, or none while it runs."""
        return self.wrapper.poll()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.send_signal(signal.SIGKILL)
        self.wait()


class LabHost:
    """A host: `run` commands inside, cut its power, start the project's daemon on it."""

    def __init__(
        self,
        *,
        name: str,
        address: str,
        namespace: str,
        directory: Path,
        switch: Switch,
        stock_pool: bool,
        cache: Path,
    ) -> None:
        self.name = name
        self.address = address
        self.uuid = str(uuid.uuid4())
        self.directory = directory
        """The host's disk, as it were: keeps its content without power, same path inside."""
        self.images = directory / "lib" / "images"
        """What the host sees as /var/lib/libvirt/images, where `default` has its volumes."""
        self.state_dir = directory / "poolmember"
        self.home = directory / "home"
        self._namespace = namespace
        self._switch = switch
        self._power: subprocess.Popen[bytes] | None = None
        self.poolmember: HostProcess | None = None
        """The project's daemon, since it was last started."""
        self._processes: list[HostProcess] = []
        self._init = 0
        lab_files.write(
            directory, host_uuid=self.uuid, address=address, stock_pool=stock_pool, cache=cache
        )

    def set_names(self, addresses: Mapping[str, str]) -> None:
        """Make the host know the lab's hosts by name, itself among them."""
        lines = ["127.0.0.1 localhost", *(f"{a} {name}" for name, a in addresses.items())]
        (self.directory / "hosts").write_text("\n".join(lines) + "\n")

    # -- power -----------------------------------------------------------------------------------

    def begin_power_on(self) -> None:
        """Switch on without waiting; `finish_power_on` waits."""
        ip("netns", "add", self._namespace)
        self._switch.plug(self._namespace, self.address)
        script = lab_files.init_script(self.name, self.directory)
        with (self.directory / "console").open("ab") as console:
            self._power = subprocess.Popen(
                ["ip", "netns", "exec", self._namespace,
                 "unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc",
                 "--mount-proc", "--propagation", "private", "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )  # fmt: skip

    def finish_power_on(self) -> None:
        """Wait until libvirtd answers."""
        power = self._power
        assert power is not None, "switched off"
        until(
            lambda: power.poll() is not None or bool(_children(power.pid)),
            seconds=5,
            what=f"the init process of {self.name}",
        )
        self._init = next(iter(_children(power.pid)), 0)
        self.wait_for_libvirtd()

    def save_cache(self, to: Path) -> None:
        """Copy what libvirtd finds out about the emulators, which takes it a second or more."""
        self.virsh("capabilities")
        shutil.copytree(self.directory / "cache", to)

    def power_on(self) -> None:
        """Switch on and wait until libvirtd answers. Memory and network start empty."""
        self.begin_power_on()
        self.finish_power_on()

    def power_off(self) -> None:
        """Cut the power: everything inside ends at once, guests too; the disk keeps its content."""
        if self._power is not None:
            self._power.kill()
            self._power.wait()
            self._power = None
            # The kernel ends the other processes with the init process, but not in one moment.
            until(self._is_empty, seconds=10, what=f"the end of all processes on {self.name}")
            while self._processes:
                self._processes.pop().wait()
        if Path("/run/netns", self._namespace).exists():
            if "eth0" in ip("-n", self._namespace, "-brief", "link"):
                self._switch.unplug(self.address)
            ip("netns", "del", self._namespace)

    def close(self) -> None:
        """Cut the power and scrap the disk. Harmless when repeated."""
        self.power_off()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _is_empty(self) -> bool:
        return not ip("netns", "pids", self._namespace).strip()

    # -- commands --------------------------------------------------------------------------------

    def run(
        self,
        command: Sequence[str],
        *,
        check: bool = True,
        timeout: float = 30,
        input: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end; `LabError` with its output unless it exits with 0."""
        done = subprocess.run(
            [*self.inside(), *command],
            capture_output=True,
            text=True,
            timeout=timeout,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            check=False,
            env=self._environment(),
        )
        if check and done.returncode != 0:
            raise LabError(
                f"{self.name}: {' '.join(command)} ended with {done.returncode}:\n"
                f"{done.stdout}{done.stderr}"
            )
        return done

    def virsh(self, *args: str, input: str | None = None) -> str:
        """Run virsh inside; its output. `input` is what it finds as /dev/stdin."""
        return self.run(["virsh", "--quiet", *args], input=input).stdout.strip()

    def popen(
        self,
        command: Sequence[str],
        *,
        stdin: int | IO[str] | None = subprocess.DEVNULL,
        stdout: int | IO[str] | None = None,
        stderr: int | IO[str] | None = None,
    ) -> HostProcess:
        """Start a command inside. It ends when the power is cut, at the latest."""
        wrapper = subprocess.Popen(
            [*self.inside(), *command],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            env=self._environment(),
            start_new_session=True,
        )
        process = HostProcess(wrapper, command)
        self._processes.append(process)
        return process

    def path(self, inside: str) -> Path:
        """Where a path inside the host is to be found from outside, sockets included."""
        return Path(f"/proc/{self._init}/root{inside}")

    def listens_on(self, port: int) -> bool:
        """Whether something inside listens on a TCP port, over whichever IP version."""
        tables = (Path(f"/proc/{self._init}/net/{name}") for name in ("tcp", "tcp6"))
        lines = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
        return any(
            state == _LISTEN and int(local.rpartition(":")[2], 16) == port
            for _, local, _, state, *_ in lines
        )

    def inside(self) -> tuple[str, ...]:
        """The beginning of a command line that runs the rest of it inside."""
        return (
            "nsenter", f"--target={self._init}",
            "--mount", "--uts", "--ipc", "--net", "--pid", "--",
        )  # fmt: skip

    def _environment(self) -> dict[str, str]:
        # Nothing of the person at the keyboard: neither their language nor their settings.
        return {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(self.home)}

    # -- libvirtd --------------------------------------------------------------------------------

    def wait_for_libvirtd(self, seconds: float = 30) -> None:
        """Wait until libvirtd answers a call."""

        def answers() -> bool:
            if self._power is None or self._power.poll() is not None:
                raise LabError(f"{self.name} does not come up:\n{self._console()}")
            socket = self.path("/run/libvirt/libvirt-sock")
            return socket.exists() and self._reaches_libvirtd()

        until(answers, seconds=seconds, what=f"libvirtd on {self.name}\n{self._console()}")

    def _reaches_libvirtd(self) -> bool:
        return self.run(["virsh", "--quiet", "nodeinfo"], check=False).returncode == 0

    def signal_libvirtd(self, number: signal.Signals) -> None:
        """Signal libvirtd itself, for example to freeze it. Guests are not touched."""
        self.run(["sh", "-c", f'kill -{number.value} "$(cat /run/libvirtd.pid)"'])

    def stop_libvirtd(self) -> None:
        """Kill libvirtd and keep it down; guests go on."""
        self.path("/run/keep-libvirtd-down").touch()
        self.signal_libvirtd(signal.SIGKILL)
        until(lambda: not self._reaches_libvirtd(), seconds=5, what="libvirtd's end")

    def start_libvirtd(self) -> None:
        """Let libvirtd come back and wait until it answers."""
        self.path("/run/keep-libvirtd-down").unlink()
        self.wait_for_libvirtd()

    def _console(self) -> str:
        console = self.directory / "console"
        return console.read_text(errors="replace")[-2000:] if console.exists() else ""

    # -- the project's daemon --------------------------------------------------------------------

    @property
    def poolmember_log(self) -> Path:
        """What the daemon wrote to stderr, over all its starts."""
        return self.directory / "poolmember.log"

    def poolmember_command(self, *args: str) -> list[str]:
        """The command line of the host's daemon; `args` come last, so they win."""
        return [
            str(Path(sys.executable).with_name("poolmember")), "run",
            "--name", self.name,
            "--listen", f"{self.address}:{POOLMEMBER_PORT}", "--insecure", "--no-voter",
            "--state-dir", str(self.state_dir),
            *args,
        ]  # fmt: skip

    def start_poolmember(self, *args: str, ready_seconds: float = 15) -> HostProcess:
        """Start `poolmember run` and wait until its port is open.

        It is named after the host, listens at the host's address and keeps its state on the
        host's disk.
        """
        with self.poolmember_log.open("a") as log:
            process = self.popen(self.poolmember_command(*args), stdout=log, stderr=log)
        self.poolmember = process
        try:
            until(
                lambda: self.listens_on(POOLMEMBER_PORT) or process.poll() is not None,
                seconds=ready_seconds,
                what=f"poolmember's port on {self.name}",
            )
        except LabError as error:
            process.kill()
            raise LabError(f"{error}\n{self.poolmember_log.read_text()[-4000:]}") from error
        if process.poll() is not None:
            raise LabError(
                f"poolmember on {self.name} ended with {process.poll()}:\n"
                f"{self.poolmember_log.read_text()[-4000:]}"
            )
        return process


def _children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
