"""Keeping the mastership of a store that other hosts may claim, and giving it up in time.

Safety does not need this: whoever has been replaced cannot commit. But a master that is cut off
from the store should not keep its callers and members waiting, so it ends its mastership by itself
when it could not confirm `head` for `confirm_seconds`. As long as it has one it keeps the `alive`
key, so that a host without a majority knows that it must not claim.
"""

from __future__ import annotations

import asyncio
import logging

from poolcore.clock import Clock
from poolcore.errors import PoolError
from poolcore.model import FailoverTimings, HostId
from poolcore.side_by_side import side_by_side
from poolmaster.decide.leadership import may_speak
from poolmaster.layout import ALIVE
from poolmaster.ledger import Ledger, SteppedDown
from poolmaster.store.contract import Compare, LeaseId, Store, StoreError, Write

log = logging.getLogger(__name__)

CONFIRMS_PER_PERIOD = 4
KEEPS_PER_PERIOD = 4


class Tenure:
    """The time for which one mastership lasts, as far as that is its own to say."""

    def __init__(
        self, ledger: Ledger, store: Store, *, host: HostId, lease: LeaseId, clock: Clock
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._host = host
        self._lease = lease
        self._clock = clock

    @property
    def _timings(self) -> FailoverTimings:
        return self._ledger.state.pool.failover

    @property
    def may_speak(self) -> bool:
        """Whether members may be told that their master is there."""
        return may_speak(self._clock.monotonic(), self._ledger.confirmed_at, self._timings)

    async def run(self) -> None:
        """Until `SteppedDown`, or cancelled."""
        await side_by_side(self._keep_confirmed(), self._end_in_time(), self._keep_alive())

    async def _keep_confirmed(self) -> None:
        while True:
            pause = self._timings.confirm_seconds / CONFIRMS_PER_PERIOD
            await self._clock.sleep(pause)
            if self._clock.monotonic() - self._ledger.confirmed_at >= pause:
                await self._confirm()

    async def _confirm(self) -> None:
        try:
            await self._ledger.confirm()
        except PoolError as error:
            # The store does not answer now. If the mastership is over, the ledger says so itself.
            log.warning("head is not confirmed: %s", error.message)

    async def _end_in_time(self) -> None:
        while True:
            await self._clock.sleep(self._timings.confirm_seconds / CONFIRMS_PER_PERIOD)
            if self.may_speak:
                continue
            # After a pause of this whole process nobody has had a chance to ask: one more.
            try:
                async with asyncio.timeout(self._timings.confirm_seconds / CONFIRMS_PER_PERIOD):
                    await self._confirm()
            except TimeoutError:
                pass
            if not self.may_speak:
                seconds = self._timings.confirm_seconds
                raise SteppedDown(f"head could not be confirmed for {seconds:g} s")

    async def _keep_alive(self) -> None:
        while True:
            await self._clock.sleep(self._timings.alive_seconds / KEEPS_PER_PERIOD)
            try:
                if not await self._store.keep_alive(self._lease):
                    await self._write_anew()
            except StoreError as error:
                log.warning("the alive key is not kept: %s", error)

    async def _write_anew(self) -> None:
        """The lease has ended and this mastership has not; a claim meanwhile wins all the same."""
        lease = await self._store.grant_lease(self._timings.alive_seconds)
        written = await self._store.transact(
            [Compare(ALIVE, None)], [Write(ALIVE, self._host.encode(), lease)]
        )
        if written:
            # Not before: keeping a lease without the key would be taken for keeping the key.
            self._lease = lease
        else:
            await self._store.revoke(lease)
