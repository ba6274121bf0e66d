"""What the client raises.

::

    PoolClientError                   exit code of `pool`
    ├── Failed                        1  it went wrong, nothing of it is left
    │   ├── HistoryGone                  a cursor from before what the pool keeps
    │   ├── LockLost                     a lock is gone while it was thought to be held
    │   └── TaskCancelled                somebody cancelled the task
    ├── InvalidRequest                2  the request itself is wrong
    ├── NotFound                      3  nothing has this name
    ├── Ambiguous                     3  several things have this name
    ├── NotAllowed                    4
    ├── Conflict                      5  the pool's or a host's state forbids it
    │   ├── LockHeld                     somebody else holds the lock
    │   └── JoinRefused                  preflight refused; see `.findings`
    ├── NoMaster                      6  no master, or nothing that stands for one
    │   ├── NoHostAnswers                no address answers
    │   └── StaleAnswer                  only an old answer is to be had, a fresh one was wanted
    ├── TimedOut                      7  the time allowed has passed; nothing was changed by it
    └── OutcomeUnknown                8  a write may have been made or not

Each has `.reason`, `.params`, `.message` and `.remedy` from the pool's error catalog
(`poolcore.errors`). Branch on the class or on the reason, never on the text.
"""

from __future__ import annotations

from collections.abc import Mapping

from poolcore.errors import Exit, PoolError, Reason


class PoolClientError(PoolError):
    """Root of everything this library raises on purpose."""


class Failed(PoolClientError):
    """It went wrong."""


class HistoryGone(Failed):
    """The pool no longer keeps the changes since the revision that was asked for."""


class LockLost(Failed):
    """A lock was not renewed in time, or somebody broke it."""


class TaskCancelled(Failed):
    """The task was cancelled and left nothing behind."""


class InvalidRequest(PoolClientError):
    """The request itself is wrong: a value, its size, its form."""


class NotFound(PoolClientError):
    """There is no object of this uuid, name or prefix."""


class Ambiguous(PoolClientError):
    """Several objects have this name or prefix."""


class NotAllowed(PoolClientError):
    """Not authenticated, or not allowed."""


class Conflict(PoolClientError):
    """The state of the pool or of a host forbids it."""


class LockHeld(Conflict):
    """Somebody else holds the lock; `.params` has the `holder`, and `since` when."""


class JoinRefused(Conflict):
    """Preflight found reasons why the host may not join; `.findings` has all of them."""


class NoMaster(PoolClientError):
    """The pool has no master that could be asked."""


class NoHostAnswers(NoMaster):
    """None of the addresses answers."""


class StaleAnswer(NoMaster):
    """Only a stale answer is to be had and a fresh one was required."""


class TimedOut(PoolClientError):
    """The time allowed has passed. A task that was waited for goes on."""


class OutcomeUnknown(PoolClientError):
    """A write may have been made or not; repeating it with `.request_id` never makes it twice."""

    @property
    def request_id(self) -> str:
        """The id under which to repeat the write; empty if the write had none."""
        return self.params.get("request_id", "")


_BY_REASON: Mapping[Reason, type[PoolClientError]] = {
    Reason.HISTORY_GONE: HistoryGone,
    Reason.LOCK_LOST: LockLost,
    Reason.LOCK_HELD: LockHeld,
    Reason.TASK_CANCELLED: TaskCancelled,
    Reason.OBJECT_AMBIGUOUS: Ambiguous,
    Reason.JOIN_REFUSED: JoinRefused,
    Reason.NO_HOST_ANSWERS: NoHostAnswers,
    Reason.STALE_ANSWER: StaleAnswer,
}

_BY_EXIT: Mapping[Exit, type[PoolClientError]] = {
    Exit.FAILED: Failed,
    Exit.USAGE: InvalidRequest,
    Exit.NOT_FOUND: NotFound,
    Exit.NOT_ALLOWED: NotAllowed,
    Exit.CONFLICT: Conflict,
    Exit.NO_MASTER: NoMaster,
    Exit.TIMED_OUT: TimedOut,
    Exit.OUTCOME_UNKNOWN: OutcomeUnknown,
}


def client_error(error: PoolError) -> PoolClientError:
    """The client's exception for an error of the catalog."""
    if isinstance(error, PoolClientError):
        return error
    cls = _BY_REASON.get(error.reason) or _BY_EXIT.get(error.entry.exit, Failed)
    return cls(error.reason, findings=error.findings, **error.params)
