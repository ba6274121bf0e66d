"""Real hosts on one machine: each a set of Linux namespaces with its own libvirtd and QEMU.

    phantom (10.7.0.1)     ignite (10.7.0.2)     specter (10.7.0.3)      network, mount, pid,
        eth0                   eth0                  eth0                uts, ipc namespaces each
          |                      |                     |
          +---------- bridge “lan”, 10.7.0.254 --------+                 a network namespace

The bridge lives in a namespace of its own, so nothing of the machine's network is touched, several
labs run side by side with the same addresses, and the process that drives the lab is not on the
lab's network: it reaches a host by commands inside (`LabHost.run`) or by Unix sockets
(`LabHost.path`).

Everything a lab makes has the prefix `pmlab-` and goes away with it, at exit at the latest. What
the labs of killed processes left behind is removed by the next lab that starts: a lab holds a
lock, which the kernel releases when its process ends, however that happens.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from support.lab_host import LabHost
from support.lab_network import LabError, LabUnavailable, Switch, ip, until

PREFIX = "pmlab-"
BASE = Path("/tmp")
PROGRAMS = ("ip", "unshare", "nsenter", "virsh", "qemu-img", "qemu-system-x86_64", "libvirtd")


class Lab:
    """A context in which real hosts can be added; removes all of them when it ends.

    `hosts` are up when the context is entered. Raises `LabUnavailable` where no lab can run and
    `LabError` when one that should run does not.
    """

    def __init__(self, hosts: Sequence[str] = ()) -> None:
        self.hosts: dict[str, LabHost] = {}
        self._wanted = tuple(hosts)
        self._id = secrets.token_hex(3)
        self._directory = BASE / f"{PREFIX}{self._id}"
        self._cache = self._directory / "cache"
        self._switch = Switch(f"{PREFIX}{self._id}-switch")
        self._undo = ExitStack()
        self._addresses = iter(f"10.7.0.{n}" for n in range(1, 254))

    def __enter__(self) -> Self:
        _check_machine()
        _remove_stale()
        try:
            self._set_up()
            self.add_hosts(*self._wanted)
        except BaseException:
            self._undo.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        atexit.unregister(self._undo.close)
        self._undo.close()

    def add_host(self, name: str, *, stock_pool: bool = True) -> LabHost:
        """A fresh host that answers; `stock_pool`: with libvirt's usual `default` storage pool."""
        (host,) = self.add_hosts(name, stock_pool=stock_pool)
        return host

    def add_hosts(self, *names: str, stock_pool: bool = True) -> tuple[LabHost, ...]:
        """Several fresh hosts that answer; they start at the same time."""
        hosts = [self._new_host(name, stock_pool=stock_pool) for name in names]
        for host in hosts:
            host.begin_power_on()
        for host in hosts:
            host.finish_power_on()
        if hosts and not self._cache.exists():
            hosts[0].save_cache(self._cache)
        return tuple(hosts)

    def _new_host(self, name: str, *, stock_pool: bool) -> LabHost:
        host = LabHost(
            name=name,
            address=next(self._addresses),
            namespace=f"{PREFIX}{self._id}-{name}",
            directory=self._directory / name,
            switch=self._switch,
            stock_pool=stock_pool,
            cache=self._cache,
        )
        self._undo.callback(host.close)
        self.hosts[name] = host
        for known in self.hosts.values():
            known.set_names({h.name: h.address for h in self.hosts.values()})
        return host

    def remove_host(self, host: LabHost) -> None:
        """Power off a host for good."""
        del self.hosts[host.name]
        host.close()

    def _set_up(self) -> None:
        atexit.register(self._undo.close)
        self._undo.callback(shutil.rmtree, self._directory, ignore_errors=True)
        # Locked before it gets its name: another lab must never find it without an owner.
        unnamed = BASE / f".{self._directory.name}"
        unnamed.mkdir(mode=0o700)
        lock = (unnamed / "lock").open("w")
        self._undo.callback(lock.close)
        fcntl.flock(lock, fcntl.LOCK_EX)
        unnamed.rename(self._directory)
        self._undo.callback(self._switch.remove)
        self._switch.create()


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise LabUnavailable("real hosts need root")
    missing = [p for p in PROGRAMS if shutil.which(p, path="/usr/sbin:/usr/bin:/sbin:/bin") is None]
    if missing:
        raise LabUnavailable(f"not installed here: {', '.join(missing)}")
    probe = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "--uts", "--ipc", "true"],
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    if probe.returncode != 0:
        raise LabUnavailable(f"no namespaces can be made here: {probe.stderr.strip()}")


def _remove_stale() -> None:
    """Remove the namespaces, processes and folders of labs whose process has ended."""
    # In this order: a lab makes its folder before its namespaces and removes it after them.
    namespaces = sorted(Path("/run/netns").glob(f"{PREFIX}*"))
    directories = sorted(BASE.glob(f"{PREFIX}*"))
    with ExitStack() as locks:
        in_use = {d.name for d in directories if _is_in_use(d, locks)}
        for namespace in namespaces:
            if f"{PREFIX}{namespace.name.split('-')[1]}" not in in_use and namespace.exists():
                _remove_namespace(namespace.name)
        for directory in directories:
            if directory.name not in in_use:
                shutil.rmtree(directory, ignore_errors=True)


def _is_in_use(directory: Path, locks: ExitStack) -> bool:
    """Whether the lab's process lives; if it does not, the lab's lock is ours now."""
    try:
        lock = locks.enter_context((directory / "lock").open("r+"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _remove_namespace(name: str) -> None:
    def processes() -> list[int]:
        return [int(pid) for pid in ip("netns", "pids", name).split()]

    for pid in processes():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    until(lambda: not processes(), seconds=5, what=f"the end of the processes in {name}")
    ip("netns", "del", name)


__all__ = ["Lab", "LabError", "LabHost", "LabUnavailable"]
