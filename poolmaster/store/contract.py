"""The contract between the pool and the engine that stores its metadata.

An engine is an ordered map from keys to values (both bytes) with a transaction that compares
before it writes. The layout of keys is the business of `poolmaster.layout`; nothing above the
store knows which engine it runs on.

What every engine promises, and the contract suite (`tests/contract`) checks:

* **Atomic**: all of a transaction's writes happen, or none; `version` grows by one with each
  transaction that was applied and wrote something. Writing the value that is there already counts,
  removing a key that is absent does not. Compares see the state before the writes.
* **Durable**: when `transact` returns, a crash of any process, or of the machine, loses nothing of
  it (the memory engine: only as its faults are told to).
* **Linearizable**: `read` with `linearizable=True` sees every transaction that was acknowledged to
  anybody before the read began. A local read (`False`) may be older, never torn: it is some state
  that existed, and one engine object never goes back in time.
* **Cancellation**: cancelling a caller does not cancel the transaction: it was applied or it was
  not, and the engine object stays usable. Nothing is half done.
* **Outcomes**: `transact` returns `True` (applied), `False` (a compare failed: nothing was written)
  or raises. `OutcomeUnknown`: it may have been applied, or may be at any time until it is seen to
  fail its compares (it "lands late"). `StoreUnavailable`: it was certainly not applied.
  `StoreFailed`: the engine object is of no further use, outcome unknown; open a new one.
  `TransactionTooLarge`, `LeaseGone`: certainly not applied. An engine never repeats a transaction
  by itself.
* **Order of a watch**: changes arrive in order of `version`, each at most once; a value that was
  overwritten before the watcher got to it may be left out, the newest is always delivered. A watch
  from a version that is no longer kept raises `WatchGone`.
* **Leases** bound how long a key outlives its owner. They are convenience, never safety: no
  decision that must be right may depend on one. A key that is written again belongs to the lease of
  the last write, or to none. When a lease ends, its keys go in a transaction of the engine's own,
  which a watch sees; a read may miss them a moment before that.
* **Close** waits for the outcome of what is in flight and gives it to its caller. Afterwards every
  call raises `StoreUnavailable` and watches have ended; closing again does nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NewType, Protocol

LeaseId = NewType("LeaseId", int)


class StoreError(Exception):
    """Root of what an engine raises."""


class StoreUnavailable(StoreError):
    """The engine cannot be reached or refuses; the transaction was certainly not applied."""


class OutcomeUnknown(StoreError):
    """The transaction may have been applied, or may still be."""


class StoreFailed(StoreError):
    """The engine object is of no further use; what became of its last transaction is unknown."""


class WatchGone(StoreError):
    """The version to watch from is no longer kept; read, and watch from there."""

    def __init__(self, oldest: int) -> None:
        super().__init__(oldest)
        self.oldest = oldest

    def __str__(self) -> str:
        return f"the oldest version that can be watched from is {self.oldest}"


class LeaseGone(StoreError):
    """All compares held, but a write names a lease that has ended; nothing was written."""


class TransactionTooLarge(StoreError):
    """The transaction exceeds the engine's limits and was refused whole, never split."""


@dataclass(frozen=True, slots=True)
class Compare:
    """The transaction happens only if `key` has this `value`; `None`: only if it is absent."""

    key: bytes
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Write:
    """`key` becomes `value`; `None` removes it. With a lease, the key goes when the lease does."""

    key: bytes
    value: bytes | None
    lease: LeaseId | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """A key with its value and the version that last wrote it."""

    key: bytes
    value: bytes
    version: int


@dataclass(frozen=True, slots=True)
class ReadResult:
    """Items in order of their keys, all as of one `version` of the store."""

    items: tuple[Item, ...]
    version: int
    more: bool = False
    """Whether `limit` cut the answer short; the next page starts behind the last key."""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """`key` got `value` at `version`; `None`: it was removed."""

    key: bytes
    value: bytes | None
    version: int


class Store(Protocol):
    """See the module's docstring for what is promised."""

    engine: str
    """`memory`, `sqlite` or `etcd`."""

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        """Apply `writes`, atomically, if all `compares` hold.

        A key may be written once only: `ValueError` otherwise. Without writes it only compares.
        """
        ...

    async def read(
        self,
        start: bytes,
        end: bytes | None = None,
        *,
        limit: int | None = None,
        linearizable: bool = True,
    ) -> ReadResult:
        """The key `start`, or with `end` every key in `[start, end)`, at most `limit` (1 or more).

        Raises `StoreUnavailable` or `StoreFailed`.
        """
        ...

    def watch(self, start: bytes, end: bytes, *, after_version: int) -> AsyncIterator[WatchEvent]:
        """Changes of keys in `[start, end)` with a version above `after_version`, until closed.

        While the engine cannot be reached it waits; it raises only `WatchGone` and `StoreFailed`.
        """
        ...

    async def grant_lease(self, ttl_seconds: float) -> LeaseId:
        """A lease that ends `ttl_seconds` after it was last kept alive."""
        ...

    async def keep_alive(self, lease: LeaseId) -> bool:
        """Prolong the lease; `False` when it has already ended."""
        ...

    async def revoke(self, lease: LeaseId) -> None:
        """End the lease and remove its keys; no error when it has already ended."""
        ...

    async def close(self) -> None:
        """Give everything back. Transactions in flight end with an outcome first."""
        ...


def prefix_end(prefix: bytes) -> bytes:
    """The `end` with which `[prefix, end)` is every key that starts with `prefix`.

    `ValueError` if there is none: for the empty prefix and one of nothing but 0xff.
    """
    stem = prefix.rstrip(b"\xff")
    if not stem:
        raise ValueError(f"no key lies behind every key that starts with {prefix!r}")
    return stem[:-1] + bytes([stem[-1] + 1])


def check_written_once(writes: Sequence[Write]) -> None:
    """`ValueError` if two writes name the same key: engines differ in which of them wins."""
    if len({write.key for write in writes}) < len(writes):
        raise ValueError("a transaction writes each key once only")
