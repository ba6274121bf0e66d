"""Who has a store's file open.

A side file, `<path>.lock`, is locked with `flock` as long as the store is open: exclusively, or for
a shared file by all its openers together. So whoever gets it exclusively knows that it is alone *on
this machine*.

A shared file also notes the boot id of the machine that uses it. An opener that is alone may note
its own; one that is not must find its own, and every transaction checks that it is still there. Two
machines that see the same file (a cloned disk, a cluster file system) therefore never both believe
that it is theirs.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from poolcore.errors import PoolError, Reason


class StoreLock:
    """A held lock on the side file; `alone`: nobody else of this machine has the store open."""

    def __init__(self, descriptor: int, *, alone: bool) -> None:
        self.alone = alone
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, path: Path, *, shared: bool, patience_seconds: float = 0.0) -> StoreLock:
        """Exclusively if possible; for a shared store otherwise together with its other openers.

        Raises `STATE_IN_USE` or `STATE_UNWRITABLE`.
        """
        side = path.with_name(path.name + ".lock")
        try:
            descriptor = os.open(side, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            problem = error.strerror or str(error)
            raise PoolError(Reason.STATE_UNWRITABLE, path=str(side), problem=problem) from error
        give_up = time.monotonic() + patience_seconds
        modes = [fcntl.LOCK_EX, fcntl.LOCK_SH] if shared else [fcntl.LOCK_EX]
        while True:
            for mode in modes:
                with suppress(BlockingIOError):
                    fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
                    return cls(descriptor, alone=mode == fcntl.LOCK_EX)
            # Somebody who found himself alone keeps others out until he has looked at the file.
            if not shared or time.monotonic() > give_up:
                os.close(descriptor)
                raise PoolError(Reason.STATE_IN_USE, path=str(path))
            time.sleep(0.005)

    def share(self) -> None:
        """Let other openers of a shared store in."""
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)
        self.alone = False

    def release(self) -> None:
        """Give the lock back. The side file stays: removing it would race with the next opener."""
        os.close(self._descriptor)
