"""What differs between two revisions: a streamed answer, put together."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from poolclient._deadline import Deadline
from poolclient._errors import InvalidRequest
from poolclient._freshness import Freshness
from poolclient._transport import Transport
from poolcore.difference import ObjectDifference
from poolcore.errors import Reason
from poolcore.wire.codec import from_proto
from poolmanager.v1 import chain_pb2, pool_service_pb2


@dataclass(frozen=True, slots=True)
class Difference:
    """The objects that are not at revision `until` what they were at `since`, by kind and uuid."""

    since: int
    until: int
    objects: tuple[ObjectDifference, ...]
    freshness: Freshness


@dataclass(slots=True)
class _Answer:
    """All messages of the stream; what a call that is not streamed would have answered."""

    span: pool_service_pb2.DifferenceSpan = field(default_factory=pool_service_pb2.DifferenceSpan)
    objects: list[ObjectDifference] = field(default_factory=list)

    @property
    def freshness(self) -> chain_pb2.Freshness:
        return self.span.freshness


async def _collected(method: Any, request: object, *, timeout: float) -> _Answer:
    answer = _Answer()
    async for response in method(request, timeout=timeout):
        if response.WhichOneof("item") == "span":
            answer.span = response.span
        else:
            answer.objects.append(from_proto(response.object))
    return answer


async def difference(
    transport: Transport, since: int, until: int | None, deadline: Deadline
) -> Difference:
    """Ask for a difference; a read as any other, repeated as a whole when a connection breaks."""
    for name, revision in (("since", since), ("until", until)):
        if revision is not None and not 0 <= revision < 2**64:
            problem = "is no revision"
            raise InvalidRequest(Reason.INVALID_VALUE, field=name, problem=problem)
    request = pool_service_pb2.GetDifferenceRequest(since_revision=since, until_revision=until)
    answer, freshness = await transport.read(
        lambda c: partial(_collected, c.pool.GetDifference), request, deadline
    )
    span = answer.span
    return Difference(
        since=span.since_revision,
        until=span.until_revision,
        objects=tuple(answer.objects),
        freshness=freshness,
    )
