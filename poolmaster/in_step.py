"""Keeping one other host's replica in step with a store that is at the master alone.

Each batch is offered to that replica when it is committed, and acknowledged when the replica has
it durably. If that takes longer than the pool's `in_step_seconds`, the next commit says that the
replica is not in step any more, and only then the master goes on alone. Coming back into step is a
commit too, and the first that the replica has to confirm (design §4.3).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from poolcore.clock import Clock
from poolcore.model import Host, HostId
from poolcore.replica import State
from poolmaster.batch import BATCH_WRITES, Decide, Decision
from poolmaster.decide.in_step import (
    candidate,
    has_heard,
    in_step_with,
    is_leaving,
    without_step,
)
from poolmaster.ledger import Ledger
from poolmaster.sessions import RECONNECT_SECONDS, Sessions

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 60.0
"""From when a replica has fallen out of step to when one may come into step."""
LASTING_SECONDS = 10.0


class InStep:
    """The replica that is kept in step during one mastership. Implements `ledger.SecondCopy`."""

    def __init__(self, ledger: Ledger, sessions: Sessions, *, host: HostId, clock: Clock) -> None:
        self._ledger = ledger
        self._sessions = sessions
        self._host = host
        self._clock = clock
        self._began = clock.monotonic()
        self._given_up = False
        """Whether the ledger has gone on alone since the last host was chosen."""
        self._chosen = ledger.state.pool.in_step

    def is_ahead(self, host: HostId) -> bool:
        """Whether that host is given commits before they are acknowledged."""
        return host == self._chosen

    # -- what the ledger asks ---------------------------------------------------------------------

    async def has(self, state: State) -> bool:
        """Whether the replica that is in step by `state` has it, or none is; waits for it."""
        host = state.pool.in_step
        if host is None or state.get(Host, host) is None:
            return True
        try:
            async with asyncio.timeout(self._patience(state)):
                await self._sessions.attached_at(host, state.revision)
        except TimeoutError:
            return False
        return True

    def _patience(self, state: State) -> float:
        # After a restart of the master the host has the time to come that all have.
        to_come = self._began + RECONNECT_SECONDS - self._clock.monotonic()
        return max(state.pool.failover.in_step_seconds, to_come)

    def without(self, state: State) -> Decision:
        """The commit that says that the master goes on alone."""
        host = state.get(Host, state.pool.in_step)
        if host is None or is_leaving(self._ledger.state, host.uuid):
            log.info("the host in step leaves: the master goes on alone")
        else:
            log.error("%s does not confirm commits: the master goes on alone", host.name_label)
        self._given_up = True
        self._sessions.stir()
        return Decision(without_step(state, now=self._clock.now()))

    # -- coming and going -------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a replica in step, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_one())
            tasks.create_task(self._until_it_has_heard())

    async def _until_it_has_heard(self) -> None:
        """Note when the host that was in step before a handover has what the handover led to."""
        state = self._ledger.state
        host = state.pool.was_in_step
        if host is not None:
            await self._sessions.attached_at(host, state.revision)
            await self._ledger.insist(lambda state: Decision(has_heard(state, host)))

    async def _keep_one(self) -> None:
        """Find a replica to be in step, and another one when it is lost."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            host = self._ledger.state.pool.in_step
            if host is None:
                host = self._chosen = await self._one_that_keeps_up()
                # Before that commit: it may be the very one that the replica does not confirm.
                self._given_up = False
                await self._ledger.insist(self._beginning_with(host))
            since = self._clock.monotonic()
            await self._until_lost(host)
            await self._ledger.insist(self._ending_with(host))
            # A replica that falls out of step again and again would hold writes up each time.
            lasted = self._clock.monotonic() - since
            pause = FIRST_PAUSE_SECONDS if lasted > LASTING_SECONDS else 2 * pause
            await self._clock.sleep(min(pause, LONGEST_PAUSE_SECONDS))

    async def _one_that_keeps_up(self) -> HostId:
        while True:
            near = self._ledger.feed.revision - BATCH_WRITES
            there = [s.host for s in self._sessions.all() if s.applied > 0 and near <= s.applied]
            found = candidate(self._ledger.state, (h for h in there if h != self._host))
            if found is not None:
                return found
            await self._sessions.news()

    async def _until_lost(self, host: HostId) -> None:
        """Until the host has not been attached for `in_step_seconds`, or leaves the pool."""
        while not self._given_up:
            state = self._ledger.state
            if is_leaving(state, host):
                return
            if self._sessions.get(host) is not None:
                await self._sessions.news()
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience(state)):
                    await self._sessions.attached_at(host, 0)
            if self._sessions.get(host) is None:
                return

    def _beginning_with(self, host: HostId) -> Decide:
        return lambda state: Decision(in_step_with(state, host, now=self._clock.now()))

    def _ending_with(self, host: HostId) -> Decide:
        def decide(state: State) -> Decision:
            # The ledger may have gone on alone already.
            ours = state.pool.in_step == host
            return self.without(state) if ours else Decision(())

        return decide
