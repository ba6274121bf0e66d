"""What the agent answers about the commits that its host has put aside."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from poolcore.errors import PoolError, Reason
from poolcore.wire.codec import to_proto
from poolmanager.v1 import agent_service_pb2 as pb
from poolmember.recovery import Recoveries

TOKEN_DIGITS = 12


def recovery_functions(
    recoveries: Recoveries | None, host_name: Callable[[], str]
) -> Mapping[str, Callable[[Any], Coroutine[Any, Any, Any]]]:
    """`GetRecoveries` and `ReadRecovery`; a host without `recoveries` has none."""

    async def get(_: pb.GetRecoveriesRequest) -> pb.GetRecoveriesResponse:
        found = await recoveries.all() if recoveries is not None else ()
        return pb.GetRecoveriesResponse(recoveries=[to_proto(r) for r in found])

    async def read(request: pb.ReadRecoveryRequest) -> pb.ReadRecoveryResponse:
        after = _parsed(request.page_token) if request.HasField("page_token") else 0
        try:
            if recoveries is None:
                raise KeyError(request.name)
            lines, more = await recoveries.read(request.name, after)
        except KeyError:
            name = request.name[:60]
            raise PoolError(Reason.RECOVERY_NOT_FOUND, host=host_name(), name=name) from None
        token = None if more is None else str(more)
        return pb.ReadRecoveryResponse(lines=lines, next_page_token=token)

    return {"GetRecoveries": get, "ReadRecovery": read}


def _parsed(token: str) -> int:
    if token.isascii() and token.isdigit() and len(token) <= TOKEN_DIGITS:
        return int(token)
    problem = "is not from an earlier answer"
    raise PoolError(Reason.INVALID_VALUE, field="page_token", problem=problem)
