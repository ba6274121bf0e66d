"""Committing what hosts report: in several steps, and without holding up everybody else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial

from poolcore.clock import Clock
from poolcore.errors import PoolError, Reason
from poolcore.facts import Inventory
from poolcore.model import Host, HostId
from poolcore.replica import State
from poolmaster.decide.inventory import reported
from poolmaster.decide.report_plan import Part, ReportPlan
from poolmaster.ledger import Decision, Ledger

log = logging.getLogger(__name__)

REPORT_CHANGES = 100
"""A report that changes more objects is committed in several steps: what it tells was true at
different moments anyway, no commit may outgrow the store's limit, and the event loop does nothing
else while it encodes one."""
LARGE_OBJECTS = 2_000
"""From so many objects of pool and report together on, they are compared in a thread: meanwhile
heartbeats must go out and the other hosts be answered."""
PLANS_IN_VAIN = 3
"""After so many plans that did not hold when their turn came, the writer waits for a comparison."""


class Reports:
    """Takes the reports of all hosts in; one large one at a time."""

    def __init__(
        self,
        ledger: Ledger,
        inventories: Callable[[], Mapping[HostId, Inventory]],
        *,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._inventories = inventories
        """The last inventory of each attached host."""
        self.clock = clock
        self._large = asyncio.Lock()

    async def take(self, host: HostId, inventory: Inventory) -> int | None:
        """Commit what a report changes; the revision at which the pool was reserved, if it was."""
        if len(self._ledger.state) + len(inventory.objects) < LARGE_OBJECTS:
            return await _Report(self, host, inventory).commit(planned=False)
        async with self._large:
            return await _Report(self, host, inventory).commit(planned=True)

    def compare(self, state: State, host: HostId, inventory: Inventory) -> Callable[[], ReportPlan]:
        """What a report comes to, as a call that may be made in a thread."""
        find = partial(
            reported,
            state,
            host,
            inventory,
            now=self.clock.now(),
            others=self._inventories(),
        )
        return lambda: ReportPlan(state, find())

    @property
    def ledger(self) -> Ledger:
        """Where they are committed."""
        return self._ledger


class _Report:
    """One report on its way into the pool."""

    def __init__(self, reports: Reports, host: HostId, inventory: Inventory) -> None:
        self._reports = reports
        self._ledger = reports.ledger
        self._host = host
        self._inventory = inventory
        self._together = REPORT_CHANGES
        self._plan: ReportPlan | None = None

    async def commit(self, *, planned: bool) -> int | None:
        in_vain, clock = 0, self._reports.clock
        while True:
            if planned and in_vain < PLANS_IN_VAIN and self._plan is None:
                self._plan = await asyncio.to_thread(self._compared(self._ledger.state))
                if self._plan.is_done:
                    return None
            began = clock.monotonic()
            try:
                outcome = await self._ledger.insist(self._decide)
            except PoolError as error:
                if error.reason is not Reason.REQUEST_TOO_LARGE:
                    raise
                if self._together == 1:
                    log.error("a report of host %s is left out: %s", self._host, error.message)
                    return None
                # What administrators noted on the objects makes them large.
                self._together //= 2
                continue
            if outcome.result == "reserved":
                return outcome.revision
            if outcome.delta is None and self._plan is None:
                return None
            in_vain = in_vain + 1 if outcome.delta is None else 0
            if self._plan is None:
                continue
            if outcome.delta is not None and isinstance(outcome.result, Part):
                self._plan.taken(outcome.result)
                # As long as this part took, others have the event loop to themselves.
                await clock.sleep(clock.monotonic() - began)
            if outcome.delta is None or self._plan.is_done:
                self._plan = None

    def _decide(self, state: State) -> Decision:
        if state.pool.reservation is not None:
            return Decision((), result="reserved")
        if state.get(Host, self._host) is None:
            self._plan = None
            return Decision(())
        plan = self._plan or self._compared(state)()
        part = plan.next(state, self._together)
        return Decision(part.changes, result=part)

    def _compared(self, state: State) -> Callable[[], ReportPlan]:
        return self._reports.compare(state, self._host, self._inventory)
