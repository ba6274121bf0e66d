"""The network of a lab: a bridge in a namespace of its own, and cables from it to hosts."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path


class LabUnavailable(Exception):
    """This machine cannot run a lab; the message says why."""


class LabError(Exception):
    """Something in the lab did not go as it must; the message has the command's output."""


def run(*command: str, given: str = "") -> str:
    """Run a command that gets `given` as its input; its output."""
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, timeout=20, check=False
    )
    if done.returncode != 0:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def ip(*args: str) -> str:
    """Run iproute2's `ip`; its output."""
    return run("ip", *args)


def until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Wait until `condition` holds; `LabError` when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"waited {seconds} s in vain for {what}")
        time.sleep(0.01)


class Switch:
    """The bridge that the hosts' cables end in, in a network namespace of its own."""

    ADDRESS = "10.7.0.254"

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def create(self) -> None:
        """Make the namespace and the bridge."""
        ip("netns", "add", self._namespace)
        ip("-n", self._namespace, "link", "set", "lo", "up")
        ip("-n", self._namespace, "link", "add", "lan", "type", "bridge", "forward_delay", "0")
        ip("-n", self._namespace, "addr", "add", f"{self.ADDRESS}/24", "dev", "lan")
        ip("-n", self._namespace, "link", "set", "lan", "up")

    def remove(self) -> None:
        """Remove all of it, if it is there."""
        if Path("/run/netns", self._namespace).exists():
            ip("netns", "del", self._namespace)

    def plug(self, namespace: str, address: str) -> None:
        """Lay a cable to `eth0` of `namespace`, which gets `address`."""
        port = self._port(address)
        ip("-n", self._namespace, "link", "add", port, "type", "veth",
           "peer", "name", "eth0", "netns", namespace)  # fmt: skip
        ip("-n", self._namespace, "link", "set", port, "master", "lan", "up")
        ip("-n", namespace, "link", "set", "lo", "up")
        ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", namespace, "link", "set", "eth0", "up")
        ip("-n", namespace, "route", "add", "default", "via", self.ADDRESS)

    def unplug(self, address: str) -> None:
        """Take the cable away; at once, where the end of the host's namespace would do it later."""
        ip("-n", self._namespace, "link", "del", self._port(address))

    def disconnect(self, address: str) -> None:
        """Pull the cable out of the switch: no packet passes, and nobody is told."""
        ip("-n", self._namespace, "link", "set", self._port(address), "down")

    def reconnect(self, address: str) -> None:
        """Plug it in again."""
        ip("-n", self._namespace, "link", "set", self._port(address), "up")

    @staticmethod
    def _port(address: str) -> str:
        return f"port{address.rpartition('.')[2]}"
