"""A host in an emergency, without `await`."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from poolclient._emergency import AskedHost, EmergencyHost, Transition
from poolclient._loop_thread import LoopThread
from poolcore.facts import EmergencyOutlook, RecoveredMember
from poolcore.model import HostId


class BlockingEmergencyHost:
    """As `EmergencyHost`: `with BlockingEmergencyHost.connect("10.0.0.2") as host`."""

    def __init__(self, address: str, *, pool: str = "") -> None:
        self._thread = LoopThread()
        self._host = EmergencyHost(address, pool=pool)

    @classmethod
    def connect(cls, address: str, *, pool: str = "") -> Self:
        """A host to be entered with `with`; nothing is connected before that."""
        return cls(address, pool=pool)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._thread.run(self._host.__aenter__())
        except BaseException:
            self._thread.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._thread.run(self._host.__aexit__(kind, error, traceback))
        finally:
            self._thread.stop()

    @property
    def host(self) -> AskedHost:
        """Which host this is."""
        return self._host.host

    def outlook(self, *, timeout_seconds: float | None = None) -> EmergencyOutlook:
        """What the host would go on from, were it made master now; changes nothing."""
        return self._thread.run(self._host.outlook(timeout_seconds=timeout_seconds))

    def become_master(
        self, *, accept_loss: bool = False, timeout_seconds: float | None = None
    ) -> Transition:
        """Make the host the master, going on from its replica in a new incarnation."""
        return self._thread.run(
            self._host.become_master(accept_loss=accept_loss, timeout_seconds=timeout_seconds)
        )

    def reset_master(self, address: str, *, timeout_seconds: float | None = None) -> HostId:
        """Have the host follow the master at `address`; that one's uuid."""
        return self._thread.run(self._host.reset_master(address, timeout_seconds=timeout_seconds))

    def recover_members(
        self, *, timeout_seconds: float | None = None
    ) -> tuple[RecoveredMember, ...]:
        """Have this master tell every other host where it is; what became of each, by name."""
        return self._thread.run(self._host.recover_members(timeout_seconds=timeout_seconds))
