"""The connection to libvirt: calls, events, its loss and its return.

Imports libvirt-python, which is an optional extra: imported by the driver when it is opened.

libvirt delivers events and notices dead connections (by keepalive, within 4 s) only while its
event loop runs; one daemonic thread runs it for the process.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

import libvirt

from poolmember.drivers.contract import DriverError
from poolmember.drivers.libvirt_driver.bell import Bell, post
from poolmember.drivers.libvirt_driver.blocking_calls import BlockingCalls

T = TypeVar("T")

_log = logging.getLogger(__name__)

_KEEPALIVE_INTERVAL_SECONDS, _KEEPALIVE_COUNT = 1, 3
_DOMAIN_EVENTS = (
    libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
    libvirt.VIR_DOMAIN_EVENT_ID_TRAY_CHANGE,
)
_NETWORK_EVENTS = (libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE,)
_POOL_EVENTS = (
    libvirt.VIR_STORAGE_POOL_EVENT_ID_LIFECYCLE,
    libvirt.VIR_STORAGE_POOL_EVENT_ID_REFRESH,
)
_CLOSE_REASONS = {
    libvirt.VIR_CONNECT_CLOSE_REASON_ERROR: "input or output error",
    libvirt.VIR_CONNECT_CLOSE_REASON_EOF: "the daemon has ended",
    libvirt.VIR_CONNECT_CLOSE_REASON_KEEPALIVE: "the daemon does not answer",
}


class _ConnectionLost(Exception):
    """A call failed because there is no connection any more."""


class _Session:
    """One connection and the one thread that uses it, from its opening to its end.

    Its calls wait for each other: libvirt's client before 10.3 may end the process with a
    segmentation fault when several threads wait for answers on one connection (CVE-2024-4418).
    """

    def __init__(self, uri: str, *, timeout_seconds: float) -> None:
        self.calls = BlockingCalls(threads=1, timeout_seconds=timeout_seconds)
        self._uri = uri
        self._connection: Any = None
        self._undo = ExitStack()

    def end(self) -> Future[Any]:
        """Free it as soon as its thread has come back from whatever it is at."""
        return self.calls.close(last=self._undo.close)

    # In its thread:

    def open(self, *, on_event: Callable[[], None], on_close: Callable[[str], None]) -> None:
        """Connect, and subscribe to what the hypervisor offers. Raises `libvirtError`."""
        _run_event_loop()
        connection = self._connection = libvirt.open(self._uri)
        self._undo.callback(_quietly, connection.close)

        def changed(*_: object) -> None:
            on_event()

        def closed(_: object, reason: int, __: object) -> None:
            on_close(_CLOSE_REASONS.get(reason, f"reason {reason}"))

        _quietly(connection.setKeepAlive, _KEEPALIVE_INTERVAL_SECONDS, _KEEPALIVE_COUNT)
        _quietly(connection.registerCloseCallback, closed, None)
        self._undo.callback(_quietly, connection.unregisterCloseCallback)
        for subscribe, unsubscribe, events in (
            (
                connection.domainEventRegisterAny,
                connection.domainEventDeregisterAny,
                _DOMAIN_EVENTS,
            ),
            (
                connection.networkEventRegisterAny,
                connection.networkEventDeregisterAny,
                _NETWORK_EVENTS,
            ),
            (
                connection.storagePoolEventRegisterAny,
                connection.storagePoolEventDeregisterAny,
                _POOL_EVENTS,
            ),
        ):
            for event in events:
                token = _quietly(subscribe, None, event, changed, None)
                if token is not None:
                    # Each subscription keeps the connection from being freed, socket included.
                    self._undo.callback(_quietly, unsubscribe, token)

    def ask(self, function: Callable[[Any], T]) -> T:
        """The result of `function`; `_ConnectionLost` if it failed for that reason."""
        try:
            return function(self._connection)
        except libvirt.libvirtError as error:
            # Answered from what this side knows, without asking the daemon.
            if _quietly(self._connection.isAlive) == 0:
                raise _ConnectionLost(_message(error)) from error
            raise


class Connection:
    """One connection at a time to the libvirt daemon at `uri`.

    `bell` is rung at each event, when the connection is lost, and when it is there again.
    """

    def __init__(self, uri: str, *, timeout_seconds: float, bell: Bell) -> None:
        self._uri = uri
        self._timeout_seconds = timeout_seconds
        self._bell = bell
        self._session: _Session | None = None
        self._opening: asyncio.Future[_Session] | None = None
        self._closed = False

    @property
    def is_up(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._session is not None

    async def connect(self) -> None:
        """Connect, if not connected. Raises `DriverError` when that does not succeed in time."""
        await self._connected()

    async def call(
        self, what: str, function: Callable[[Any], T], *, timeout_seconds: float | None = None
    ) -> T:
        """The result of `function`, given libvirt-python's connection, in a thread.

        Connects first if need be. Raises `DriverError` naming `what` for every failure.
        """
        session = await self._connected()
        try:
            return await session.calls.run(
                what, lambda: session.ask(function), timeout_seconds=timeout_seconds
            )
        except _ConnectionLost as error:
            self._lose(session, str(error))
            raise DriverError(f"{what}: {error}") from error
        except libvirt.libvirtError as error:
            raise DriverError(f"{what}: {_message(error)}") from error

    async def close(self) -> None:
        """Give the connection back; an attempt under way is given back when it comes to an end."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await asyncio.wait([asyncio.wrap_future(session.end())], timeout=self._timeout_seconds)

    async def _connected(self) -> _Session:
        if self._session is not None:
            return self._session
        what = f"connecting to {self._uri}"
        if self._closed:
            raise DriverError(f"{what}: closed")
        # An attempt at a daemon that hangs ends when the daemon goes on or dies. It is waited for
        # by whoever comes, rather than joined by others that would hang as well.
        opening = self._opening = self._opening or self._begin_opening(what)
        await asyncio.wait([opening], timeout=self._timeout_seconds)
        if not opening.done():
            raise DriverError(f"{what}: no answer within {self._timeout_seconds:g} s")
        try:
            return opening.result()
        except libvirt.libvirtError as error:
            raise DriverError(f"{what}: {_message(error)}") from error

    def _begin_opening(self, what: str) -> asyncio.Future[_Session]:
        session = _Session(self._uri, timeout_seconds=self._timeout_seconds)

        def connect() -> _Session:
            session.open(
                on_event=self._bell.ring_from_thread,
                on_close=lambda why: post(self._bell.loop, self._lose, session, why),
            )
            return session

        opening = asyncio.wrap_future(session.calls.begin(what, connect))
        opening.add_done_callback(partial(self._opened, session))
        return opening

    def _opened(self, session: _Session, opening: asyncio.Future[_Session]) -> None:
        self._opening = None
        if opening.exception() is not None or self._closed:
            session.end()
        else:
            self._session = session
            self._bell.ring()

    def _lose(self, session: _Session, why: str) -> None:
        if session is not self._session:
            return
        self._session = None
        session.end()
        _log.warning("libvirt at %s: connection lost: %s", self._uri, why)
        self._bell.ring()


def _quietly(function: Callable[..., T], *args: Any) -> T | None:
    """What a hypervisor need not offer: none where it does not."""
    try:
        return function(*args)
    except libvirt.libvirtError as error:
        _log.debug("libvirt: %s", _message(error))
        return None


def _message(error: libvirt.libvirtError) -> str:
    return error.get_error_message() or str(error)


# -- libvirt's event loop --------------------------------------------------------------------------

_event_loop_lock = threading.Lock()
_event_loop: threading.Thread | None = None


def _run_event_loop() -> None:
    """Start libvirt's event loop unless it runs; it has to be there before any connection."""
    global _event_loop  # noqa: PLW0603 - libvirt has one for the process
    with _event_loop_lock:
        if _event_loop is None:
            # Errors are raised; without this they are printed to stderr besides.
            libvirt.registerErrorHandler(lambda *_: None, None)
            libvirt.virEventRegisterDefaultImpl()
            _event_loop = threading.Thread(
                target=_deliver_events, name="libvirt-events", daemon=True
            )
            _event_loop.start()


def _deliver_events() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError as error:
            # Without a pause a lasting error would take a whole processor.
            _log.error("libvirt's event loop: %s", _message(error))
            time.sleep(1)
