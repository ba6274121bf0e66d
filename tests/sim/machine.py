"""The simulated machine: an event loop in which one seed is one exact run.

Time is virtual. What else could differ between two runs is taken away: threads (what would run in
one runs at once), the entropy that uuids are made of, the order in which a set of tasks is walked,
and the moments at which garbage is collected. The order of sets of *text* depends on the hash seed
of the process: replays need the same `PYTHONHASHSEED` (`sim.run` sees to that).

Places (`place`, for example a host) can be frozen, as SIGSTOP freezes a process: nothing that was
begun there goes on, timers go off and what it waits for comes, and it all happens at once when the
place is thawed.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

from support.virtual_clock import VirtualClock, VirtualTimeLoop

T = TypeVar("T")

_PLACE: ContextVar[str] = ContextVar("place", default="")


def place(name: str) -> Context:
    """A context in which what is begun, and all that this begins, is at the place of that name."""
    context = copy_context()
    context.run(_PLACE.set, name)
    return context


class _NumberedTask(asyncio.Task[Any]):
    """A task whose hash is its number, so that sets of tasks have the same order in each run."""

    def __init__(self, number: int, coro: Any, **options: Any) -> None:
        self._number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


class MachineLoop(VirtualTimeLoop):
    """See the module's docstring."""

    # asyncio has no other way to what is about to happen.
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

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
        self._frozen: dict[str, list[asyncio.Handle]] = {}
        """What will happen at each frozen place when it is thawed."""

    def freeze(self, name: str) -> None:
        """Let nothing happen at a place from now on."""
        if name in self._frozen:
            return
        parked = self._frozen[name] = []
        # The queue is being walked: what is taken out of it leaves a gap behind.
        for index, handle in enumerate(self._ready):
            if _place_of(handle) == name and not handle.cancelled():
                parked.append(handle)
                self._ready[index] = gap = asyncio.Handle(_nothing, (), self)
                gap.cancel()
        for timer in self._scheduled:
            if _place_of(timer) == name and not timer.cancelled():
                _detour(timer, self._go_off)
        # Ordinary calls are spared the question.
        self.call_soon = self._call_soon_or_park  # type: ignore[method-assign, assignment]

    def thaw(self, name: str) -> None:
        """Let everything go on that was to happen at a place meanwhile, in that order."""
        self._ready.extend(self._frozen.pop(name, ()))
        if not self._frozen:
            vars(self).pop("call_soon", None)

    def _call_soon_or_park(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        where = _PLACE.get() if context is None else context.get(_PLACE)
        if where not in self._frozen:
            return super().call_soon(callback, *args, context=context)
        handle = asyncio.Handle(callback, args, self, context)
        self._frozen[where].append(handle)
        return handle

    def _go_off(self, timer: asyncio.TimerHandle, callback: Any, args: Any) -> None:
        """A timer that was set at a place before it was frozen."""

        def go_off() -> None:
            if not timer.cancelled():
                callback(*args)

        self.call_soon(go_off)

    def run_in_executor(  # type: ignore[override]  # the base class has more than one shape
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # whatever it is, it is the caller's
            done.set_exception(error)
        return done


def _nothing() -> None:
    pass


def _place_of(handle: Any) -> str:
    where: str = handle._context.get(_PLACE)
    return where


def _detour(timer: Any, way: Callable[..., None]) -> None:
    timer._callback, timer._args = way, (timer, timer._callback, timer._args)


@contextmanager
def _entropy_from(seed: object) -> Iterator[None]:
    # The machine's entropy, not a part of ours: uuids are made of it, and `secrets`.
    source = random.Random(f"entropy of {seed}")
    real = os.urandom
    os.urandom = random._urandom = source.randbytes  # type: ignore[attr-defined]
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()  # what daemons have frozen
        gc.enable()
        os.urandom = random._urandom = real  # type: ignore[attr-defined]


def simulate(seed: object, main: Callable[[VirtualClock], Coroutine[Any, Any, T]]) -> T:
    """Run `main` to its end on a machine of that seed."""
    clock = VirtualClock()
    with (
        _entropy_from(seed),
        asyncio.Runner(loop_factory=lambda: MachineLoop(clock)) as runner,
    ):
        return runner.run(main(clock), context=Context())
