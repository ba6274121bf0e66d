"""What a master has sent and this host has not taken up yet."""

from __future__ import annotations

import asyncio
from collections import deque

from poolmanager.v1 import member_service_pb2 as pb

ROOM_BYTES = 16 * 1024 * 1024
"""So much may wait; then the master has to. Counted in bytes, for what a busy master sends in the
seconds that a slow disk takes are many messages, and a snapshot is a few large ones."""


class Inbox:
    """Messages in their order, and behind the last one why there are no more."""

    def __init__(self) -> None:
        self._messages: deque[tuple[float, pb.SessionResponse]] = deque()
        self.taken_up_to = 0.0
        """When the last message came that was taken."""
        self._bytes = 0
        self._end: Exception | None = None
        self._came = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def put(self, message: pb.SessionResponse, *, at: float) -> None:
        """Take in a message that came at that time; waits while there is no room."""
        await self._room.wait()
        self._messages.append((at, message))
        self._bytes += message.ByteSize()
        if self._bytes >= ROOM_BYTES:
            self._room.clear()
        self._came.set()

    def close(self, why: Exception) -> None:
        """There are no more; whoever has taken all of them gets `why`."""
        self._end = why
        self._came.set()

    async def take(self) -> pb.SessionResponse:
        """The next message; waits for it, or raises why there is none."""
        while not self._messages:
            if self._end is not None:
                raise self._end
            self._came.clear()
            await self._came.wait()
        return self._taken()

    def next_deltas(self) -> pb.Deltas | None:
        """The deltas of the next message but for heartbeats, if it is there and has some.

        Those heartbeats are taken then, which have told what they had to by coming; the message
        is not.
        """
        while self._messages:
            _, message = self._messages[0]
            if message.HasField("deltas"):
                return message.deltas
            if not message.HasField("heartbeat"):
                break
            self._taken()
        return None

    def _taken(self) -> pb.SessionResponse:
        self.taken_up_to, message = self._messages.popleft()
        self._bytes -= message.ByteSize()
        if self._bytes < ROOM_BYTES:
            self._room.set()
        return message
