"""Running the parts of something that ends as a whole.

Used where somebody who cancels must not wait for ever, and where the failure of a part is caught
and survived. There `asyncio.TaskGroup` does not do: before Python 3.13 (cpython issue 116720) it
loses a cancellation that comes while it ends its other tasks because one has failed, and the whole
goes on as if nobody had cancelled it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


async def side_by_side(*parts: Coroutine[Any, Any, object]) -> None:
    """Run the parts until all have returned, or one raises, which ends the others.

    Raises what the first one, in the order of `parts`, raised; so what others fail of goes first.
    Never returns before all parts have ended, however often it is cancelled.
    """
    tasks = [asyncio.ensure_future(part) for part in parts]  # noqa: TID251 - awaited below
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        failures = await _end(tasks)
    for failure in failures:
        raise failure


async def accompanied(main: Coroutine[Any, Any, T], *others: Coroutine[Any, Any, object]) -> T:
    """The result of `main`; the others run beside it, and end with it.

    Raises what any of them raises, as `side_by_side` does.
    """
    result: list[T] = []

    async def to_its_end() -> None:
        result.append(await main)
        raise _Ended

    with suppress(_Ended):
        await side_by_side(to_its_end(), *others)
    return result[0]


class _Ended(Exception):
    """What the others run beside has ended."""


async def _end(tasks: Sequence[asyncio.Future[object]]) -> list[BaseException]:
    """Cancel the tasks and wait for them; what they raised."""
    for task in tasks:
        task.cancel()
    cancelled: asyncio.CancelledError | None = None
    while not all(task.done() for task in tasks):
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError as error:
            cancelled = error
    failures = [task.exception() for task in tasks if not task.cancelled()]
    if cancelled is not None:
        raise cancelled
    return [failure for failure in failures if failure is not None]
