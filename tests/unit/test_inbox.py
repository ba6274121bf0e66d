"""What a master has sent waits in order, has bounded room, and ends with a reason."""

from __future__ import annotations

import asyncio

import pytest

from poolmanager.v1 import member_service_pb2 as pb
from poolmember.inbox import ROOM_BYTES, Inbox


def deltas(*data: bytes) -> pb.SessionResponse:
    return pb.SessionResponse(deltas=pb.Deltas(deltas=data))


EJECT = pb.SessionResponse(eject=pb.Eject(task="one"))
HEARTBEAT = pb.SessionResponse(heartbeat=pb.Heartbeat())


async def test_messages_come_out_in_order_and_then_the_reason() -> None:
    inbox = Inbox()
    await inbox.put(deltas(b"1"), at=1.0)
    await inbox.put(HEARTBEAT, at=2.0)
    inbox.close(ConnectionError("over"))

    assert await inbox.take() == deltas(b"1")
    assert inbox.taken_up_to == 1.0
    assert await inbox.take() == HEARTBEAT
    assert inbox.taken_up_to == 2.0
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await inbox.take()


async def test_deltas_are_looked_for_behind_heartbeats_and_nothing_else() -> None:
    inbox = Inbox()
    assert inbox.next_deltas() is None
    await inbox.put(HEARTBEAT, at=1.0)
    await inbox.put(deltas(b"1", b"2"), at=2.0)
    await inbox.put(EJECT, at=3.0)
    await inbox.put(deltas(b"3"), at=4.0)

    for _ in range(2):
        assert inbox.next_deltas() == pb.Deltas(deltas=[b"1", b"2"])
        assert inbox.taken_up_to == 1.0
    assert await inbox.take() == deltas(b"1", b"2")
    assert inbox.next_deltas() is None
    assert await inbox.take() == EJECT
    assert inbox.next_deltas() == pb.Deltas(deltas=[b"3"])


async def test_a_full_inbox_lets_the_master_wait_until_there_is_room() -> None:
    inbox = Inbox()
    large = deltas(bytes(ROOM_BYTES // 2))
    await inbox.put(large, at=0.0)
    await inbox.put(large, at=0.0)
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(inbox.put(HEARTBEAT, at=0.0))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        await inbox.take()
    await inbox.take()
    assert await inbox.take() == HEARTBEAT


async def test_whoever_waits_is_woken_by_a_message_and_by_the_end() -> None:
    inbox = Inbox()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        taking = tasks.create_task(inbox.take())
        await asyncio.sleep(0)
        await inbox.put(HEARTBEAT, at=0.0)
        assert await taking == HEARTBEAT
        asyncio.get_running_loop().call_soon(inbox.close, ConnectionError("over"))
        with pytest.raises(ConnectionError):
            await inbox.take()
