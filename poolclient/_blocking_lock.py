"""A lock without `await`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

from poolclient._errors import LockLost
from poolclient._locks import PoolLock
from poolcore.model import Lock


class BlockingPoolLock:
    """As `PoolLock`: `with pool.lock(...) as lock`.

    A block that only blocks cannot be cancelled when the lock is lost meanwhile: `check` tells, and
    leaving the block raises `LockLost`.
    """

    def __init__(self, run: Callable[[Coroutine[Any, Any, None]], None], lock: PoolLock) -> None:
        self._run = run
        self._lock = lock

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.release()
        except LockLost:
            if kind is None:
                raise

    @property
    def lock(self) -> Lock:
        """The lock as the pool has it."""
        return self._lock.lock

    @property
    def token(self) -> int:
        """The fencing token: higher than that of any earlier holder."""
        return self._lock.token

    @property
    def lost(self) -> LockLost | None:
        """Why the lock is lost; none as long as it is held."""
        return self._lock.lost

    @property
    def released(self) -> bool:
        """Whether it was given up in the end; if not, the pool does it after its time to live."""
        return self._lock.released

    def check(self) -> None:
        """Raise `LockLost` if the lock is lost."""
        self._lock.check()

    def acquire(self) -> None:
        """Take the lock; `LockHeld` when somebody has it, and still has when waiting is over."""
        self._run(self._lock.acquire())

    def release(self) -> None:
        """Give the lock up; `LockLost` when it was lost meanwhile."""
        self._run(self._lock.release())
