"""What the pool's hosts have put aside of commits that the pool has not: asked of each of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from poolcore.errors import PoolError, Reason
from poolcore.facts import Recovery
from poolcore.model import Host
from poolcore.wire.codec import to_proto
from poolmanager.v1 import pool_service_pb2 as pb
from poolmaster.decide.selection import select
from poolmaster.mastership import Mastership

log = logging.getLogger(__name__)


async def list_recoveries(
    master: Mastership, _: pb.ListRecoveriesRequest
) -> pb.ListRecoveriesResponse:
    """What each attached host has put aside, and which hosts did not say."""
    state = await master.fresh()
    hosts = sorted(state.all(Host), key=lambda h: (h.name_label, h.uuid))
    answers = await asyncio.gather(*(_asked(master, host) for host in hosts))
    return pb.ListRecoveriesResponse(
        recoveries=[to_proto(found) for answer in answers for found in answer or ()],
        silent=[
            pb.HostRef(uuid=host.uuid, name_label=host.name_label)
            for host, answer in zip(hosts, answers, strict=True)
            if answer is None
        ],
    )


async def _asked(master: Mastership, host: Host) -> Sequence[Recovery] | None:
    if master.sessions.get(host.uuid) is None:
        return None
    try:
        return await master.agents.recoveries(host.address)
    except PoolError as error:
        log.warning("%s does not say what it has put aside: %s", host.name_label, error.message)
        return None


async def get_recovery(
    master: Mastership, request: pb.GetRecoveryRequest
) -> pb.GetRecoveryResponse:
    """A page of what a host has put aside."""
    host = select(await master.fresh(), Host, request.host)
    if master.sessions.get(host.uuid) is None:
        raise PoolError(Reason.HOST_OFFLINE, host=host.name_label)
    token = request.page_token if request.HasField("page_token") else None
    lines, more = await master.agents.read_recovery(host.address, request.name, token)
    return pb.GetRecoveryResponse(lines=lines, next_page_token=more)
