"""The simulated network: connections between endpoints, each message after a while.

Like TCP, a connection delivers in order or breaks. While its link is cut, in one direction or in
both, what goes that way waits, and the connection breaks when that lasts. Who loses its power sends
nothing any more; the other end learns of it as soon as something gets through.

Messages can be lost (`Network.lose`). TCP loses nothing within a connection, so a stream ends with
its connection; a call of one message and one answer is as if a middlebox had swallowed it, and
stays unanswered until its deadline.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Protocol, TypeVar

from poolcore.clock import Clock

T = TypeVar("T")

SYN_SECONDS = (0.0, 1.0, 2.0)
"""The pauses before each attempt at a connection, as TCP makes them."""
BREAKS_AFTER_SECONDS = 4.0

Link = tuple[str, str]
"""From one endpoint to another."""


class Listener(Protocol):
    """Who can be reached at an endpoint."""

    @property
    def over(self) -> bool:
        """Whether it has lost its power."""
        ...

    @property
    def frozen(self) -> bool:
        """Whether it is stopped: it has power and does nothing."""
        ...

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do something there; it ends with the power."""
        ...

    def handler(self, details: Any) -> Any:
        """gRPC's handler of a call; none for an unknown method."""
        ...


class Network:
    """See the module's docstring. `slow_seconds` is the longest that a message takes."""

    def __init__(self, seed: object, clock: Clock) -> None:
        self.slow_seconds = 0.005
        self.losses = 0.0
        """Of so many messages between each two hosts one is lost: 0.01 is one in a hundred."""
        self.listening: dict[str, Listener] = {}
        self.context = Context()
        """What happens on the way is not done by any host."""
        self._seed = seed
        self._clock = clock
        self._dice: dict[Link, random.Random] = {}
        self._cut: set[Link] = set()
        self._wires: dict[Wire, None] = {}

    def cut(self, one: str, other: str, *, one_way: bool = False) -> None:
        """Let nothing through between two machines, or only nothing from `one` to `other`."""
        self._cut.add(_machines(one, other))
        if not one_way:
            self._cut.add(_machines(other, one))
        for wire in tuple(self._wires):
            wire.look()

    def heal(self, one: str | None = None, other: str | None = None) -> None:
        """Let everything through again between two endpoints, or between all."""
        if one is None or other is None:
            self._cut.clear()
        else:
            self._cut -= {_machines(one, other), _machines(other, one)}
        for wire in tuple(self._wires):
            wire.look()

    def is_cut(self, source: str, target: str) -> bool:
        """Whether nothing gets from one endpoint to another."""
        return bool(self._cut) and _machines(source, target) in self._cut

    def delay(self, source: str, target: str) -> float:
        """How long the next message takes; each direction of each link has dice of its own."""
        return self._dice_of((source, target)).uniform(0.0001, self.slow_seconds)

    def lose(self, source: str, target: str) -> bool:
        """Whether the next message is lost."""
        return bool(self.losses) and self._dice_of((source, target)).random() < self.losses

    def _dice_of(self, link: Link) -> random.Random:
        if link not in self._dice:
            self._dice[link] = random.Random(f"{self._seed} {link[0]} to {link[1]}")
        return self._dice[link]

    async def connected(self, source: str, target: str) -> Wire | str:
        """A connection, or why there is none."""
        for pause in SYN_SECONDS:
            await self._clock.sleep(pause + self.delay(source, target))
            if self.is_cut(source, target) or self.is_cut(target, source):
                continue
            listener = self.listening.get(target)
            if listener is not None and listener.frozen:
                continue
            await self._clock.sleep(self.delay(target, source))
            if listener is None or listener.over:
                return "connection refused"
            wire = Wire(self, self._clock, source, target, listener)
            self._wires[wire] = None
            wire.look()
            return wire
        return "no answer"

    def gone(self, endpoint: str) -> None:
        """Whoever listened at an endpoint has lost its power."""
        for wire in tuple(self._wires):
            if wire.target == endpoint:
                wire.back.put(wire.break_)

    def forget(self, wire: Wire) -> None:
        """A connection is over."""
        self._wires.pop(wire, None)


def _machines(source: str, target: str) -> Link:
    """The link that two endpoints are connected by, whatever their ports are."""
    return source.partition(":")[0], target.partition(":")[0]


class Lane:
    """One direction of a connection: calls what is put into it, in order, when it has arrived."""

    def __init__(self, network: Network, clock: Clock, source: str, target: str) -> None:
        self._network = network
        self._clock = clock
        self._link = (source, target)
        self._under_way: deque[tuple[float, Callable[..., None], tuple[Any, ...]]] = deque()
        self._last_due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def put(self, arrives: Callable[..., None], *what: Any) -> None:
        """Send something."""
        due = self._clock.monotonic() + self._network.delay(*self._link)
        self._last_due = max(self._last_due, due)
        self._under_way.append((self._last_due, arrives, what))
        self.look()

    def look(self) -> None:
        """Deliver what is due, unless the link is cut; come back for the rest."""
        if self._network.is_cut(*self._link):
            return
        now = self._clock.monotonic()
        while self._under_way and self._under_way[0][0] <= now:
            _, arrives, what = self._under_way.popleft()
            arrives(*what)
        if self._under_way and self._timer is None:
            loop, due = asyncio.get_running_loop(), self._under_way[0][0]
            self._timer = loop.call_at(due, self._ring, context=self._network.context)

    def _ring(self) -> None:
        self._timer = None
        self.look()

    def clear(self) -> None:
        """Nothing of what is under way arrives."""
        self._under_way.clear()


class Wire:
    """A connection: one lane there and one back, until it breaks."""

    def __init__(
        self, network: Network, clock: Clock, source: str, target: str, listener: Listener
    ) -> None:
        self.source = source
        self.target = target
        self.listener = listener
        self.there = Lane(network, clock, source, target)
        self.back = Lane(network, clock, target, source)
        self.broken = False
        self.on_break: dict[Callable[[], None], None] = {}
        """Told when the connection breaks; both ends take note of that at once."""
        self._network = network
        self._timer: asyncio.TimerHandle | None = None

    def look(self) -> None:
        """Take note of whether the link is cut."""
        ends = (self.source, self.target)
        if self._network.is_cut(*ends) or self._network.is_cut(*ends[::-1]):
            if self._timer is None:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(
                    BREAKS_AFTER_SECONDS, self.break_, context=self._network.context
                )
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.there.look()
        self.back.look()

    def loses(self, *, back: bool = False) -> bool:
        """Whether the next message is lost on its way there, or back."""
        ends = (self.source, self.target)
        return self._network.lose(*(ends[::-1] if back else ends))

    def break_(self) -> None:
        """The connection is over."""
        if self.broken:
            return
        self.broken = True
        if self._timer is not None:
            self._timer.cancel()
        self._network.forget(self)
        self.there.clear()
        self.back.clear()
        for told in tuple(self.on_break):
            told()
