"""A service manager that listens to one daemon, as systemd does to a unit of `Type=notify`."""

from __future__ import annotations

import asyncio
import os
import socket
from itertools import count

_numbers = count()


class ServiceManager(asyncio.DatagramProtocol):
    """Knows the daemon's last status.

    The socket has an abstract name, as a path in a test's folder could be too long for one; or the
    `path` that is given, which is found from other network namespaces too.
    """

    def __init__(self, path: str | None = None) -> None:
        self.address = path or f"@poolmember-test-{os.getpid()}-{next(_numbers)}"
        self._transport: asyncio.BaseTransport | None = None
        self._status: str | None = None
        self._failure: Exception | None = None
        self._told = asyncio.Event()

    async def listen(self) -> None:
        """Forget the last daemon and wait for the next one to report."""
        self._status = self._failure = None
        if self._transport is None:
            receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            receiver.setblocking(False)
            name = self.address
            receiver.bind("\0" + name[1:] if name.startswith("@") else name)
            loop = asyncio.get_running_loop()
            self._transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=receiver)

    def datagram_received(self, data: bytes, _: object) -> None:
        """Take one report; each has `STATUS=` but the one at the end."""
        for line in data.decode().splitlines():
            if line.startswith("STATUS="):
                self._status = line.removeprefix("STATUS=")
        self._wake()

    def fail(self, error: Exception) -> None:
        """The daemon ended with an error: whoever waits gets it."""
        self._failure = error
        self._wake()

    async def until(self, words: str) -> None:
        """Until the status is known and contains `words`."""
        while self._status is None or words not in self._status:
            if self._failure is not None:
                raise self._failure
            await self._told.wait()

    def _wake(self) -> None:
        self._told.set()
        self._told = asyncio.Event()

    def close(self) -> None:
        """Stop listening."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None
