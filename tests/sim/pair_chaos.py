"""Two hosts whose store is at the master, every misfortune, and a person who makes one lead.

Besides what may befall any pool (`sim.misfortunes`), the master ends and hands over first. When
it is off and the other host was in step by the chain's own record, a person may make that one the
master with the one command, and the old one comes back later. What clients are promised holds
whoever was lost: what was acknowledged, and what was shown as fresh, is in every later state.
Sometimes a third host comes and goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from poolcore.errors import PoolError, Reason
from poolcore.model import HostId, PoolId, Task
from poolcore.replica import State
from poolcore.wire.chain import decode_delta
from poolmaster.operations.designate import (
    CATCH_UP_SECONDS,
    PREPARE_SECONDS,
    TAKE_OVER_SECONDS,
    Designate,
)
from poolmaster.store.memory import Fate
from poolmember.standing import hand_over
from sim.host import SimHost
from sim.misfortunes import MISHAPS, Misfortune, Misfortunes
from sim.pairs import pair, tell_to_lead
from sim.register import Register
from sim.world import ANSWER_SECONDS, World, is_refused, play

NOT_NOW = (
    Reason.NO_HOST_ANSWERS,
    Reason.OUTCOME_UNKNOWN,
    Reason.REPLICA_MISSING,
    Reason.STATE_UNWRITABLE,
    Reason.STORE_UNAVAILABLE,
    Reason.REPLICA_BEHIND,
    Reason.ANOTHER_IN_STEP,
)
"""What keeps the one command from being done although it is the right one."""
DONE = (Reason.QUORUM_LIVES, Reason.LOSS_NOT_ACCEPTED)
"""What a host may say that was told before: there is a new store, whose host only has to start."""
HEIR = (Reason.LOSS_NOT_ACCEPTED,)
"""What the heir may say of a handover that has led to nothing yet: it may have been withdrawn."""
ASKED_AGAIN = 5
"""More often nobody is left without an answer by a network that loses one message in 20."""


class PairChaos(Misfortunes):
    """One run."""

    seconds = 12.0
    fates = (*[Fate.SERVED] * 40, *MISHAPS)
    short_history = True

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._kept_off: set[str] = set()
        """Hosts that a person keeps switched off."""
        self._deciding = 0
        """How many people are about to make a host the master."""
        self._founded: PoolId
        self._guest: SimHost | None = None

    async def _begin(self) -> Sequence[SimHost]:
        both = await pair(self.world)
        membership = both[0].membership
        assert membership is not None
        self._founded = membership.pool
        if self.dice.random() < 0.4:
            (self._guest,) = self.world.add("guest")
        await self.world.settle()
        self.world.network.slow_seconds = self.dice.choice([0.002, 0.02, 0.05])
        return both

    def _may_happen(self) -> list[Misfortune]:
        always: list[Misfortune] = [
            self._power,
            self._master_lost,
            self._master_lost,
            self._end,
            self._freeze,
            self._links,
            self._losses,
            self._clocks,
            self._disks,
            self._designate,
            self._designate,
            self._land_late,
        ]
        if self._guest is None:
            return always
        return [*always, partial(self._come_and_go, self._guest)]

    async def _finish(self) -> None:
        # A command is not given halfway.
        await self.world.until(lambda: not self._deciding, seconds=ASKED_AGAIN * ANSWER_SECONDS)

    @property
    def _pool(self) -> PoolId:
        return self._founded

    def _switch_on(self, host: SimHost) -> None:
        if host.name not in self._kept_off:
            host.power_on()

    async def _peace(self) -> None:
        await super()._peace()
        # The answer of a host that has prepared a store may be lost: for that one waits long.
        longest = CATCH_UP_SECONDS + PREPARE_SECONDS + TAKE_OVER_SECONDS
        await self.world.until(lambda: not self._hands_over(), seconds=longest)

    def _hands_over(self) -> bool:
        """Whether a master is handing over because it was asked to."""
        tasks = (task for master in self._masterships() for task in master.state.all(Task))
        return any(t.operation == Designate.name and not t.status.is_final for t in tasks)

    # -- misfortunes ------------------------------------------------------------------------------

    async def _master_lost(self) -> None:
        """The host with the store is off, perhaps all of them are; a person may see to it."""
        lost = self._with_the_store()
        if lost is None or self._kept_off:
            return
        lost.cut_power()
        self._kept_off.add(lost.name)
        heir = self._in_step()
        if heir is not None and heir is not lost:
            if self.dice.random() < 0.3:
                heir.cut_power()
            await self.world.clock.sleep(self.dice.choice([0.0, 0.1, 1.0, 4.0]))
            self._switch_on(heir)
            if self.dice.random() < 0.8:
                await self._tell(heir, lost)
        await self.world.clock.sleep(self.dice.choice([0.0, 0.3, 2.0]))
        self._kept_off.discard(lost.name)
        lost.power_on()

    async def _tell(self, heir: SimHost, lost: SimHost) -> None:
        """Without an answer they give the command again, unless it was done and is over."""
        self._deciding += 1
        try:
            while not await self._answers(heir, lost) and self._with_the_store() in (lost, heir):
                pass
        finally:
            self._deciding -= 1

    async def _answers(self, heir: SimHost, lost: SimHost) -> bool:
        """Give the one command; whether the host has answered."""
        try:
            await tell_to_lead(self.world, heir)
        except PoolError as error:
            if is_refused(error, Reason.DEADLINE_PASSED):
                return False
            done = self._with_the_store() is not lost
            told = DONE if done else HEIR if self._is_heir(heir) else ()
            self.world.rules.expect(
                is_refused(error, *NOT_NOW, *told),
                f"{heir.name} is not made master: {error.message}",
            )
        return True

    def _with_the_store(self) -> SimHost | None:
        """The host that has the pool's newest store."""
        data = self.world.rules.registers[self._pool].data
        hosts = self.world.hosts.values()
        return next((h for h in hosts if h.disk.store and h.disk.store.data is data), None)

    def _in_step(self) -> SimHost | None:
        """The host that has everything that was acknowledged, by the chain's own record."""
        register = self.world.rules.registers[self._pool]
        state: State = register.state
        if state.revision in register.raw:
            last = decode_delta(register.raw[state.revision])
            if last.succession is not None:
                # Whoever knows of a handover that has led to nothing yet, asks for more than one
                # command. The host that was in step before may not know of it.
                state = register.states[state.revision - 1]
        uuid: HostId | None = state.pool.in_step
        host = next((h for h in self.world.hosts.values() if h.uuid == uuid), None)
        replica = None if host is None or host.disk.replica is None else host.disk.replica.state
        if replica is None or register.states.get(replica.revision) != replica:
            # Nothing, or what is of no store yet: a person has made it go on.
            return None
        if replica.revision > state.revision or self._waits_for_another(replica, register):
            return None
        # Without a break since what it has: it may not have heard yet that it fell out of step, or
        # that it is to be in step again.
        since = range(replica.revision, state.revision + 1)
        return host if all(register.states[r].pool.in_step == uuid for r in since) else None

    def _is_heir(self, host: SimHost) -> bool:
        """Whether the last that a host knows makes it the heir; it may have learned that late."""
        replica = host.disk.replica
        raw = (
            None
            if replica is None or replica.state is None
            else replica.log.get(replica.state.revision)
        )
        succession = None if raw is None else decode_delta(raw).succession
        return succession is not None and succession.heir == host.uuid

    def _waits_for_another(self, replica: State, register: Register) -> bool:
        """Whether all that a host knows is a handover that a third one may not have heard of."""
        raw = register.raw.get(replica.revision)
        succeeded = raw is not None and decode_delta(raw).succession is not None
        return succeeded and replica.pool.was_in_step is not None

    async def _end(self) -> None:
        """A daemon is told to end, as by SIGTERM; it has not long."""
        host = self._some_host()
        life = host.life
        if life is None:
            return
        ending = life.begin(hand_over(life.parts))
        await asyncio.wait([ending], timeout=self.dice.choice([0.05, 5.0, 5.0]))
        if host.life is life:
            host.cut_power()
        await self.world.clock.sleep(self.dice.choice([0.0, 0.5, 3.0]))
        self._switch_on(host)


def run(seed: int, *, plant: Callable[[World], None] = lambda world: None) -> World:
    """One run; AssertionError when a rule is broken. `plant` may plant a bug."""

    async def scenario(world: World) -> None:
        plant(world)
        await PairChaos(world).play()

    return play(f"pair chaos {seed}", scenario)
