"""Members without a daemon: sessions over connections of their own, replicas in memory.

    python -m bench.light_members ENDPOINT POOL HOST…

Speaks as `bench.notes` says.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import sys
from collections.abc import AsyncIterator

from bench.notes import Notes
from poolcore.replica import State, apply
from poolcore.wire.chain import SnapshotAssembler, decode_delta
from poolcore.wire.channels import open_channel
from poolcore.wire.codec import to_proto
from poolmanager.v1 import member_service_pb2 as pb
from poolmanager.v1 import member_service_pb2_grpc
from poolmember.session import ACKNOWLEDGE_SECONDS, SOFTWARE

decode_once = functools.lru_cache(maxsize=64)(decode_delta)
"""Members of one process share what is the same for all of them; hosts have a processor each."""


class LightMember:
    """One member: follows its master from a snapshot on, and acknowledges as a daemon does."""

    def __init__(self, host: str, pool: str, notes: Notes) -> None:
        self._host = host
        self._hello = pb.Hello(host=host, pool=pool, software_version=to_proto(SOFTWARE))
        self._notes = notes
        self._state: State | None = None
        self._moved = asyncio.Event()

    async def follow(self, endpoint: str) -> None:
        """Until cancelled."""
        async with open_channel(endpoint) as channel:
            call = member_service_pb2_grpc.MemberServiceStub(channel).Session(self._requests())
            assembler = SnapshotAssembler()
            while True:
                response = await call.read()
                assert isinstance(response, pb.SessionResponse), "the session has ended"
                if response.HasField("deltas"):
                    self._apply(response.deltas)
                elif response.HasField("snapshot"):
                    state = assembler.add(response.snapshot)
                    if state is not None:
                        self._notes.has_snapshot(self._host, state.revision)
                        self._move_to(state)

    def _apply(self, deltas: pb.Deltas) -> None:
        state = self._state
        assert state is not None, "deltas before a snapshot"
        for data in deltas.deltas:
            state = apply(state, decode_once(data))
        self._notes.has_applied(self._host, state.revision, commits=len(deltas.deltas))
        self._move_to(state)

    def _move_to(self, state: State) -> None:
        self._state = state
        self._moved.set()

    async def _requests(self) -> AsyncIterator[pb.SessionRequest]:
        yield pb.SessionRequest(hello=self._hello)
        while True:
            await self._moved.wait()
            self._moved.clear()
            assert self._state is not None
            yield pb.SessionRequest(applied=pb.Applied(revision=self._state.revision))
            if self._state.pool.in_step != self._host:
                # From the one that is in step each goes at once: callers wait for it.
                await asyncio.sleep(ACKNOWLEDGE_SECONDS)


async def main(endpoint: str, pool: str, *hosts: str) -> None:
    # That they share a heap, with as many replicas in it, is no cost of theirs.
    gc.disable()
    notes = Notes(hosts)
    await notes.tell([LightMember(host, pool, notes).follow(endpoint) for host in hosts])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
