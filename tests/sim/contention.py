"""Masters that depose each other over one store that fails, clients that ask again, readers.

What clients may rely on is checked at the moment they are answered: an acknowledged write is in
the chain, what was refused as not done is not and never will be, nothing is done twice, nobody
reads or is fed what is not committed. `Contention.run` is the same for the product's ledger and
for one with a bug planted (`test_planted_bugs.py`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from poolcore.errors import PoolError, Reason
from poolcore.model import VM
from poolcore.replica import Delta, State
from poolcore.requests import request_id
from poolmaster.claiming import claim
from poolmaster.ledger import Ledger, Outcome, Request, SteppedDown
from poolmaster.store.contract import Store, StoreError
from poolmaster.store.memory import Fate, MemoryStore, MemoryStoreData
from sim.machine import simulate
from sim.register import Register, Violations
from support.registers import COUNTER, IGNITE, PHANTOM, counted, counting, found_register
from support.virtual_clock import VirtualClock

SECONDS = 4.0
CLIENTS = 5
NOT_DONE = {Reason.STORE_UNAVAILABLE, Reason.NO_MASTER}
FATES: Sequence[Fate] = [
    *[Fate.SERVED] * 8,
    Fate.REFUSED,
    Fate.UNKNOWN_APPLIED,
    Fate.UNKNOWN_LOST,
    Fate.UNKNOWN_LATE,
    Fate.COMMIT_FAILED_APPLIED,
    Fate.COMMIT_FAILED_LOST,
]


def _as_it_is(store: Store) -> Store:
    return store


@dataclass
class Contention:
    """One run; `kind` and `around` are where bugs are planted."""

    seed: int
    kind: type[Ledger] = Ledger
    around: Callable[[Store], Store] = _as_it_is
    violations: Violations = field(default_factory=Violations)
    refused: set[str] = field(default_factory=set)
    """Writes that somebody was told are not done, and that nobody asked for again."""
    acknowledged: int = 1
    """The highest revision that a client was told of."""
    _done: dict[str, int] = field(default_factory=dict)
    """At which revision each write is in the chain."""

    def run(self) -> None:
        """Play it; AssertionError if a rule was broken."""
        try:
            simulate(self.seed, self._play)
        finally:
            # Whatever else went wrong then followed from the rules that were broken.
            self.violations.raise_any()

    async def _play(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.data = MemoryStoreData()
        self.ledgers: dict[str, Ledger] = {}
        self.register = Register(self.data, self.violations, on_commit=self._check_commit)
        with self.data.ringing(self.register):
            await found_register(MemoryStore(self.data, clock=clock), history=200)
            async with asyncio.TaskGroup() as tasks:
                playing = [tasks.create_task(self._master(host)) for host in (PHANTOM, IGNITE)]
                playing += [tasks.create_task(self._client(n)) for n in range(CLIENTS)]
                playing.append(tasks.create_task(self._reader()))
                await clock.sleep(SECONDS)
                for task in playing:
                    task.cancel()
            self.register.check_whole()
        for label in self.refused:
            fact = label not in self._done
            self.violations.expect(fact, f"{label}: told as not done, and was done")

    # -- masters ----------------------------------------------------------------------------------

    async def _master(self, host: str) -> None:
        """Claim the register over and over; each time with a new handle."""
        dice = random.Random(f"{self.seed} master {host}")
        while True:
            await self.clock.sleep(dice.uniform(0.0, 0.3))
            store = MemoryStore(self.data, clock=self.clock)
            store.faults.latency_seconds = dice.choice([0.0, 0.001, 0.01])
            store.faults.plan(*(dice.choice(FATES) for _ in range(60)))
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._land_late(store, random.Random(f"{self.seed} {host}")))
                    tasks.create_task(self._lead(host, store))
            except* (SteppedDown, StoreError, TimeoutError):
                pass

    async def _lead(self, host: str, store: MemoryStore) -> None:
        claimed = await claim(self.around(store), host)  # type: ignore[arg-type]
        head, state = claimed.head, claimed.state
        ledger = self.kind(self.around(store), head, state, clock=self.clock)
        self.ledgers[host] = ledger
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ledger.run())
            tasks.create_task(self._follow(ledger, head.revision))

    async def _land_late(self, store: MemoryStore, dice: random.Random) -> None:
        while True:
            await self.clock.sleep(dice.uniform(0.0, 0.2))
            if store.faults.late:
                late = store.faults.late.pop(dice.randrange(len(store.faults.late)))
                late.land() if dice.random() < 0.7 else late.drop()

    async def _follow(self, ledger: Ledger, cursor: int) -> None:
        """A member: what it is fed has been committed."""
        try:
            while True:
                for commit in await ledger.feed.after(cursor):
                    cursor = commit.revision
                    fact = self.register.raw.get(cursor) == commit.data
                    self.violations.expect(fact, f"revision {cursor} was fed, not committed")
        except PoolError:
            return  # The mastership has ended.

    # -- clients ----------------------------------------------------------------------------------

    async def _client(self, number: int) -> None:
        dice = random.Random(f"{self.seed} client {number}")
        known, count = 1, 0
        while True:
            await self.clock.sleep(dice.choice([0.0, 0.0, 0.001, 0.02]))
            count += 1
            label = f"c{number}w{count}"
            request = Request(request_id(known, f"{label:a>10}"), label.encode())
            known = max(known, await self._ask(label, request, dice))

    async def _ask(self, label: str, request: Request, dice: random.Random) -> int:
        """Ask until there is an answer, sometimes twice at once; the revision it became, or 0."""
        may_be_done = False
        while True:
            ledger = self.ledgers.get(dice.choice([PHANTOM, IGNITE]))
            if ledger is None:
                await self.clock.sleep(0.01)
                continue
            copies = dice.choice([1, 1, 2])
            answers = await asyncio.gather(
                *(self._write(ledger, label, request) for _ in range(copies))
            )
            done = [a for a in answers if isinstance(a, int)]
            if done:
                return done[0]
            reasons = {a for a in answers if isinstance(a, Reason)}
            if reasons <= {Reason.REQUEST_TOO_OLD}:
                return 0
            may_be_done |= bool(reasons - NOT_DONE)
            if not may_be_done and dice.random() < 0.3:
                self.refused.add(label)
                return 0
            await self.clock.sleep(dice.uniform(0.0, 0.05))

    async def _write(self, ledger: Ledger, label: str, request: Request) -> int | Reason:
        try:
            outcome = await ledger.write(counting(label), request=request)
        except PoolError as error:
            return error.reason
        self._check_answer(label, outcome)
        return outcome.revision

    async def _reader(self) -> None:
        """Reads through the barrier see everything that was acknowledged before they began."""
        dice = random.Random(f"{self.seed} reader")
        while True:
            await self.clock.sleep(dice.uniform(0.0, 0.02))
            ledger = self.ledgers.get(dice.choice([PHANTOM, IGNITE]))
            if ledger is None:
                continue
            before = self.acknowledged
            try:
                await ledger.confirm()
            except PoolError:
                continue
            self.violations.expect(
                ledger.state.revision >= before, "a confirmed read misses what was acknowledged"
            )
            fact = self.register.states.get(ledger.state.revision) == ledger.state
            self.violations.expect(fact, "a confirmed read shows what is not committed")

    # -- rules ------------------------------------------------------------------------------------

    def _check_answer(self, label: str, outcome: Outcome) -> None:
        at = outcome.revision
        fact = self._done.get(label) == at
        self.violations.expect(fact, f"{label}: acknowledged at {at}, where it is not")
        self.acknowledged = max(self.acknowledged, outcome.revision)

    def _check_commit(self, register: Register, before: State, delta: Delta) -> None:
        after = register.states[delta.commit.revision]
        old, new = before.get(VM, COUNTER), after.get(VM, COUNTER)
        if old is None or new is None:
            return
        added = set(new.other_config) - set(old.other_config) - {"n"}
        self.violations.expect(
            len(added) == counted(after) - counted(before) == 1,
            f"revision {delta.commit.revision} does again what was done before",
        )
        for label in added:
            self._done[label] = delta.commit.revision
