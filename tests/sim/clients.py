"""Users of the client library, and what it promises them.

Each is a `PoolClient` of its own at some of the pool's hosts, on the simulated network. What they
may rely on whatever happens:

* An acknowledged write is in the chain, at the revision that it was acknowledged with, and in every
  later state. One that raised anything but `OutcomeUnknown` never happens. Asked again with its
  request id, one whose outcome was unknown ends as the chain has it.
* An answer that is marked fresh shows everything that was acknowledged before it was asked for,
  whoever was told. No answer shows what the pool never was, and no client sees it go back.
* A watcher is told every revision once and in order, across whatever breaks its stream. A mirror
  shows the pool as it was at some revision, and never goes back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from poolclient import (
    Committed,
    Cursor,
    Freshness,
    NoMaster,
    PoolClient,
    PoolClientError,
    TimedOut,
)
from poolcore.errors import Reason
from poolcore.model import Host, HostId, PoolId
from poolcore.replica import State
from poolcore.requests import request_id
from poolcore.wire.chain import decode_delta
from sim.host import SimHost
from sim.register import Register
from sim.world import World

Act = Callable[[str, PoolClient, random.Random], Awaitable[None]]

PAUSE_SECONDS = 0.2
CATCH_UP_SECONDS = 20.0
SETTLE_ATTEMPTS = 5
MAY_BE_DONE = frozenset({Reason.OUTCOME_UNKNOWN, Reason.REQUEST_TOO_OLD, Reason.INTERNAL_ERROR})


@dataclass
class _Write:
    """A write that somebody asks for, maybe more than once."""

    id: str
    tag: str
    host: HostId | None
    """What is tagged; none for the pool."""
    uncertain: bool = False
    """Whether it may have been made without anybody being told."""
    revision: int | None = None
    refused: Reason | None = None

    @property
    def is_settled(self) -> bool:
        """Whether its client knows what became of it."""
        return self.revision is not None or self.refused is not None


class Clients:
    """Everybody who uses one pool; `hosts` are those that are of it all the time."""

    def __init__(
        self, world: World, pool: PoolId, hosts: Sequence[SimHost], *, short_history: bool = False
    ) -> None:
        self.names: list[str] = []
        """Where they are on the network."""
        self._world = world
        self._short_history = short_history
        """Whether a master may begin with less history than the one before had: a replica that was
        taken from a snapshot knows no commits from before that."""
        self._pool = pool
        self._hosts = hosts
        self._writes: list[_Write] = []
        self._newest = 0
        """The newest revision that anybody was told of as fresh."""
        self._watched: dict[str, Cursor] = {}
        """How far each watcher is."""
        self._mirrored = 0

    @property
    def _register(self) -> Register:
        return self._world.rules.registers[self._pool]

    def _expect(self, holds: bool, rule: str) -> None:
        self._world.rules.expect(holds, rule)

    def _told(self, revision: int) -> None:
        self._newest = max(self._newest, revision)

    def start(
        self, tasks: asyncio.TaskGroup, *, writers: int
    ) -> tuple[list[asyncio.Task[None]], list[asyncio.Task[None]]]:
        """Act until cancelled: who asks, and who only looks on."""
        acting: dict[str, Act] = {f"writer {n}": self._write for n in range(writers)}
        acting["reader"] = self._read
        looking: dict[str, Act] = {"watcher": self._watch, "mirror": self._mirror}
        return (
            [tasks.create_task(self._as_one(name, act)) for name, act in acting.items()],
            [tasks.create_task(self._as_one(name, act)) for name, act in looking.items()],
        )

    async def _as_one(self, name: str, acts: Act) -> None:
        """Act as one client; who gives up comes back as a new one, at other hosts."""
        dice = random.Random(f"{self._world.seed} {name}")
        self.names.append(name)
        while True:
            try:
                async with self._connect(name, dice) as client:
                    await acts(name, client, dice)
            except (NoMaster, TimedOut):
                await self._world.clock.sleep(PAUSE_SECONDS)
            except PoolClientError as error:
                if self._short_history and error.reason is Reason.HISTORY_GONE:
                    self._watched.pop(name, None)
                    continue
                self._expect(False, f"the {name} is told {error.reason}: {error.message}")
                await self._world.clock.sleep(PAUSE_SECONDS)

    def _connect(self, name: str, dice: random.Random) -> PoolClient:
        hosts = dice.sample(self._hosts, dice.randint(1, len(self._hosts)))
        return PoolClient.connect(
            *(host.endpoint for host in hosts),
            pool=self._pool,
            timeout_seconds=dice.choice([1.0, 3.0, 5.0]),
            require_fresh=dice.random() < 0.3,
            open_channel=self._world.opener(name),
        )

    # -- writers ----------------------------------------------------------------------------------

    async def _write(self, name: str, client: PoolClient, dice: random.Random) -> None:
        """Write over and over, now and then twice at once; ask again when nothing is known."""
        for _ in range(dice.randint(5, 30)):
            await self._world.clock.sleep(dice.uniform(0.0, 0.3))
            nonce = f"{dice.getrandbits(64):016x}"
            host = dice.choice([None, *(host.uuid for host in self._hosts)])
            write = _Write(request_id(client.revision, nonce), f"{name} {nonce}", host)
            self._writes.append(write)
            for _ in range(dice.choice([1, 3, 5])):
                await self._ask(client, write, copies=dice.choice([1, 1, 2]))
                if write.is_settled:
                    break
                await self._world.clock.sleep(dice.uniform(0.0, 0.5))

    async def _ask(self, client: PoolClient, write: _Write, *, copies: int = 1) -> None:
        before, write.uncertain = write.uncertain, True
        told = await asyncio.gather(*(self._answer(client, write) for _ in range(copies)))
        reasons = [t for t in told if isinstance(t, Reason)]
        for revision in (t for t in told if isinstance(t, int)):
            done = self._register.executed.get(write.id)
            self._expect(revision == done, f"{write.tag}: told {revision}, it is at {done}")
            write.revision = revision
            self._told(revision)
        if len(reasons) == copies and not before and not MAY_BE_DONE.intersection(reasons):
            write.refused = reasons[0]

    async def _answer(self, client: PoolClient, write: _Write) -> int | Reason:
        """The revision that it became, or why not."""
        committed: Committed[Any]
        try:
            if write.host is None:
                committed = await client.set(add_tags=[write.tag], request_id=write.id)
            else:
                committed = await client.hosts.set(
                    write.host, add_tags=[write.tag], request_id=write.id
                )
        except PoolClientError as error:
            return error.reason
        return committed.revision

    # -- readers ----------------------------------------------------------------------------------

    async def _read(self, name: str, client: PoolClient, dice: random.Random) -> None:
        """Reads a host, over and over."""
        for _ in range(dice.randint(10, 60)):
            await self._world.clock.sleep(dice.uniform(0.0, 0.1))
            before = self._newest
            host, found = await client.hosts.read(self._hosts[0].uuid)
            self._expect(
                found.stale or found.revision >= before,
                f"the {name} is answered from {found.revision} as fresh after {before}",
            )
            was = self._state_at(found)
            true = was is not None and was.get(Host, host.uuid) == host
            self._expect(true, f"the {name} is told of {found.revision} what never was")
            if not found.stale:
                self._told(found.revision)

    def _state_at(self, told: Freshness) -> State | None:
        """The state that an answer is of.

        One that says that it is stale may be of a life of the pool that was given up: a host that
        comes back shows what it has until it has found the others.
        """
        lives = self._register.lives() if told.stale else (self._register,)
        states = (life.states.get(told.revision) for life in lives)
        return next(
            (s for s in states if s is not None and s.incarnation.uuid == told.incarnation), None
        )

    async def _watch(self, name: str, client: PoolClient, dice: random.Random) -> None:
        """Follows every commit; a new client goes on where the last one was."""
        since = self._watched.setdefault(name, Cursor("", self._acknowledged()))
        async with aclosing(client.events(since=since)) as events:
            async for event in events:
                last = self._watched[name].revision
                self._expect(event.revision == last + 1, f"{event.revision} is told after {last}")
                self._watched[name] = event.cursor
                self._told(event.revision)
                raw = self._register.raw.get(event.revision)
                true = raw is not None and decode_delta(raw).changes == event.changes
                self._expect(true, f"the {name} is told at {event.revision} what never was")
                if dice.random() < 0.01:
                    return

    def _acknowledged(self) -> int:
        """A revision that nobody may go back behind."""
        newest, master = self._register.state.revision, self._world.master_of(self._pool)
        return newest if master is None else min(newest, master.state.revision)

    async def _mirror(self, name: str, client: PoolClient, _: random.Random) -> None:
        """Looks at a live copy."""
        async with client.mirror() as mirror, aclosing(mirror.changes()) as states:
            self._look_at(mirror.state, name)
            async for state in states:
                last = self._mirrored
                self._look_at(state, name)
                self._expect(
                    last < self._mirrored, f"the {name} goes from {last} to {self._mirrored}"
                )

    def _look_at(self, state: State, name: str) -> None:
        self._mirrored = state.revision
        was = self._register.states.get(state.revision)
        true = was is not None and (was.last, was.tables) == (state.last, state.tables)
        self._expect(true, f"the {name} shows at {state.revision} what never was")

    # -- in the end -------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Ask for everything whose outcome is not known, until it is; let who looks on catch up."""
        unsettled = [write for write in self._writes if not write.is_settled]
        endpoints = [host.endpoint for host in self._hosts]
        opener = self._world.opener("settling")
        async with PoolClient.connect(*endpoints, open_channel=opener) as client:
            for write in unsettled:
                for _ in range(SETTLE_ATTEMPTS):
                    await self._ask(client, write)
                    if write.is_settled:
                        break
                made = self._short_history and write.id in self._register.executed
                self._expect(
                    write.is_settled or made, f"nobody can tell what became of {write.tag}"
                )

        def behind() -> list[str]:
            reached = {name: cursor.revision for name, cursor in self._watched.items()}
            reached["mirror"] = self._mirrored
            end = self._register.state.revision
            return [f"{name} at {at} of {end}" for name, at in reached.items() if at != end]

        end = self._world.clock.monotonic() + CATCH_UP_SECONDS
        while late := behind():
            assert self._world.clock.monotonic() < end, f"in peace there is still {late}"
            await self._world.let_pass(PAUSE_SECONDS)

    def check(self) -> None:
        """What everybody was told is what the chain says."""
        register, at_home = self._register, [host.uuid for host in self._hosts]
        held = {revision: _tags(state, at_home) for revision, state in register.states.items()}
        for write in filter(lambda write: write.is_settled, self._writes):
            if write.revision is None:
                done = register.executed.get(write.id)
                rule = f"{write.tag} was refused ({write.refused}) and was made at {done}"
                self._expect(done is None, rule)
                continue
            lacking = [
                r for r, tags in held.items() if r >= write.revision and write.tag not in tags
            ]
            rule = f"{write.tag} was acknowledged at {write.revision} and is not in {lacking[:3]}"
            self._expect(not lacking, rule)


def _tags(state: State, hosts: Sequence[HostId]) -> frozenset[str]:
    """Every tag of the pool and of these hosts."""
    if not state.revision:
        return frozenset()
    found = set(state.pool.tags)
    for uuid in hosts:
        host = state.get(Host, uuid)
        found |= set(host.tags if host is not None else ())
    return frozenset(found)
