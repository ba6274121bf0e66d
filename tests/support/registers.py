"""A founded register and ledgers on it, for tests of what a mastership may and may not do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from immutables import Map

from poolcore.clock import Clock
from poolcore.model import VM, HostId, Incarnation, Pool, PoolId, PowerState, VmId
from poolcore.replica import Put, State
from poolcore.requests import request_id
from poolmaster.claiming import claim
from poolmaster.ledger import Decide, Decision, Ledger, Request, SteppedDown
from poolmaster.mastership import found
from poolmaster.store.contract import Store

POOL = PoolId("6f1d6a5e-0000-4000-8000-000000000001")
INCARNATION = Incarnation(1, "6f1d6a5e-0000-4000-8000-000000000002")
PHANTOM = HostId("6f1d6a5e-0000-4000-8000-00000000000a")
IGNITE = HostId("6f1d6a5e-0000-4000-8000-00000000000b")
COUNTER = VmId("6f1d6a5e-0000-4000-8000-0000000000c0")


async def found_register(store: Store, *, history: int = 10_000) -> None:
    """A pool with one VM that counts the writes it has seen."""
    pool = Pool(uuid=POOL, name_label="phantom", history_revisions=history)
    counter = VM(uuid=COUNTER, name_label="counter", power_state=PowerState.HALTED)
    await found(store, INCARNATION, PHANTOM, (pool, counter))


def counting(label: str, *, padding: int = 0) -> Decide:
    """One more: the counter's `n` grows by one and remembers in `label` as which one it came."""

    def decide(state: State) -> Decision:
        counter = state.get(VM, COUNTER)
        assert counter is not None
        number = counted(state) + 1
        config = Map(counter.other_config).update(
            {"n": str(number), label: str(number) + " " * padding}
        )
        return Decision((Put(replace(counter, other_config=config)),), result=number)

    return decide


def counted(state: State) -> int:
    """How many writes the counter has seen."""
    counter = state.get(VM, COUNTER)
    assert counter is not None
    return int(counter.other_config.get("n", "0"))


def changing_nothing(state: State) -> Decision:
    """A write that finds everything as it should be; tells the count that it saw."""
    return Decision((), result=counted(state))


def asked(base: int, number: int, payload: str = "payload") -> Request:
    """A request by a client that knows the pool up to `base`."""
    return Request(request_id(base, f"nonce{number:05}"), payload.encode())


@dataclass
class Leader:
    """A ledger that runs."""

    ledger: Ledger
    running: asyncio.Task[None]

    async def stepped_down(self) -> str:
        """Wait for the end of the mastership; why it ended."""
        try:
            await self.running
        except SteppedDown as end:
            return str(end)
        raise AssertionError("run returned")


@asynccontextmanager
async def leading(
    store: Store, *, clock: Clock, host: HostId = PHANTOM, kind: type[Ledger] = Ledger
) -> AsyncIterator[Leader]:
    """Claim the register and run a ledger on it; at the end it is cancelled if it still runs."""
    claimed = await claim(store, host)
    head, state = claimed.head, claimed.state
    ledger = kind(store, head, state, clock=clock)
    leader = Leader(ledger, asyncio.ensure_future(ledger.run()))  # noqa: TID251 - awaited below
    try:
        # One turn of the loop, so that it runs even if the test does not wait for anything.
        await asyncio.sleep(0)
        yield leader
    finally:
        leader.running.cancel()
        await asyncio.gather(leader.running, return_exceptions=True)
