"""The simulated machine: an event loop in which one seed is one exact run.

Time is virtual. What else could differ between two runs is taken away: threads (what would run in
one runs at once), the entropy that uuids are made of, the order in which a set of tasks is walked,
and the moments at which garbage is collected. The order of sets of *text* depends on the hash seed
of the process: replays need the same `PYTHONHASHSEED` (`sim.run` sees to that).
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
from collections.abc import Callable, Coroutine, Generator, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import Context
from typing import Any, TypeVar

from support.virtual_clock import VirtualClock, VirtualTimeLoop

T = TypeVar("T")


class _NumberedTask(asyncio.Task[Any]):
    """A task whose hash is its number, so that sets of tasks have the same order in each run."""

    def __init__(self, number: int, coro: Any, **options: Any) -> None:
        self._number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


class MachineLoop(VirtualTimeLoop):
    """See the module's docstring."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        numbers = itertools.count()

        def make(
            loop: asyncio.AbstractEventLoop,
            coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
            **options: Any,
        ) -> asyncio.Future[T]:
            return _NumberedTask(next(numbers), coro, loop=loop, **options)

        self.set_task_factory(make)

    def run_in_executor(  # type: ignore[override]  # the base class has more than one shape
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # whatever it is, it is the caller's
            done.set_exception(error)
        return done


@contextmanager
def _entropy_from(seed: object) -> Iterator[None]:
    # The machine's entropy, not a part of ours: uuids are made of it.
    source = random.Random(f"entropy of {seed}")
    real = os.urandom
    os.urandom = source.randbytes
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()  # what daemons have frozen
        gc.enable()
        os.urandom = real


def simulate(seed: object, main: Callable[[VirtualClock], Coroutine[Any, Any, T]]) -> T:
    """Run `main` to its end on a machine of that seed."""
    clock = VirtualClock()
    with (
        _entropy_from(seed),
        asyncio.Runner(loop_factory=lambda: MachineLoop(clock)) as runner,
    ):
        return runner.run(main(clock), context=Context())
