"""A safety mechanism taken away while everything else is the product's: real clients notice.

The bugs are those of `test_planted_bugs.py` and `test_planted_elections.py`, now in whole hosts
under the misfortunes of `sim.shared_chaos`, and one of the way between a client and the master.
Without a bug the runs break no rule (`test_random.py`). Reads without a barrier are caught by
`test_stopped_masters.py`, a lease that is used as the fence by `test_planted_elections.py`: there,
too, by what clients are told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from poolcore.errors import PoolError, Reason
from poolcore.wire.status import error_from_rpc, status_of
from poolmaster.ledger import Ledger
from sim import shared_chaos
from sim.host import SimHost
from sim.test_planted_bugs import (
    AnswersBeforeCommit,
    AnswersDuplicatesBeforeCommit,
    ForgetsRequestIds,
    NoCompareOfHead,
    UnknownIsDone,
    UnknownIsNotDone,
)
from sim.test_planted_elections import SwapsWithoutCompare
from sim.world import World
from support.stores import StoreAround

SEEDS = range(200, 240)


def in_the_store(bug: type[StoreAround]) -> Callable[[World], None]:
    def plant(world: World) -> None:
        world.around = bug

    return plant


def in_the_ledger(bug: type[Ledger]) -> Callable[[World], None]:
    """A bug in every master's ledger: there is no other way to get one in there."""

    def plant(world: World) -> None:
        def infect(host: SimHost) -> None:
            if host.mastership is not None:
                host.mastership.ledger.__class__ = bug

        world.on_role = infect

    return plant


class _TellsUnknownAsNotDone:
    """A call's context, for a host that takes what it does not know for what was not done."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self.time_remaining = context.time_remaining
        self.invocation_metadata = context.invocation_metadata

    async def abort(self, code: grpc.StatusCode, text: str, metadata: Any = ()) -> None:
        told = grpc.aio.AioRpcError(
            code, grpc.aio.Metadata(), grpc.aio.Metadata(*metadata), details=text
        )
        if error_from_rpc(told).reason is Reason.OUTCOME_UNKNOWN:
            refusal = PoolError(Reason.STORE_UNAVAILABLE, problem="no answer")
            code, text, metadata = status_of(refusal)
        await self._context.abort(code, text, metadata)


def unknown_is_not_done(handler: Any) -> Any:
    """What it becomes when any host refuses what it should call unknown."""
    if handler is None or handler.request_streaming or handler.response_streaming:
        return handler

    async def handle(request: Any, context: Any) -> Any:
        return await handler.unary_unary(request, _TellsUnknownAsNotDone(context))

    return handler._replace(unary_unary=handle)


def in_the_gateway(world: World) -> None:
    world.on_call = unknown_is_not_done


PLANTED: dict[str, Callable[[World], None]] = {
    **{bug.__name__: in_the_store(bug) for bug in (NoCompareOfHead, SwapsWithoutCompare)},
    **{
        bug.__name__: in_the_ledger(bug)
        for bug in (
            AnswersBeforeCommit,
            AnswersDuplicatesBeforeCommit,
            ForgetsRequestIds,
            UnknownIsDone,
            UnknownIsNotDone,
        )
    },
    "UnknownIsNotDoneOnTheWay": in_the_gateway,
}


FOUND_BY = {
    "NoCompareOfHead": 202,
    "SwapsWithoutCompare": 204,
    "AnswersDuplicatesBeforeCommit": 201,
    "UnknownIsDone": 231,
}
"""The first seed that finds a bug, where it is not the first of all: to save time."""


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_breaks_a_rule(name: str) -> None:
    for seed in SEEDS[FOUND_BY.get(name, SEEDS[0]) - SEEDS[0] :]:
        try:
            shared_chaos.run(seed, plant=PLANTED[name])
        except AssertionError:
            return
    pytest.fail(f"nobody noticed {name} in {len(SEEDS)} runs")
