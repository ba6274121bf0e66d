"""Commits that hosts had and the pool has not, as the hosts have saved them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from poolclient._core import Core
from poolcore.facts import Recovery
from poolcore.model import Kind
from poolcore.outlook import HostRef
from poolcore.wire.codec import from_proto
from poolmanager.v1 import pool_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class Recoveries:
    """What the live hosts have saved, by host; `silent` hosts did not say."""

    found: tuple[Recovery, ...]
    silent: tuple[HostRef, ...]


@dataclass(frozen=True, slots=True)
class RecoveredChange:
    """What a commit that the pool has not made of one object."""

    revision: int
    term: int
    request_id: str | None
    kind: Kind
    uuid: str
    name_label: str
    before: Mapping[str, Any] | None
    """The object's fields as JSON has them; None when it was not there, or nobody knows."""
    before_from: str | None
    """Who says what it was: `log`, the host's own history; `pool`, as it is there; or nobody."""
    after: Mapping[str, Any] | None
    """None when the commit removed it."""
    line: str
    """All of this as the line of JSON that the host has saved."""


async def list_recoveries(core: Core, *, timeout_seconds: float | None) -> Recoveries:
    """See `PoolClient.recoveries`."""
    answer = await core.transport.ask(
        lambda c: c.pool.ListRecoveries,
        pb.ListRecoveriesRequest(),
        core.deadline(timeout_seconds),
    )
    return Recoveries(
        tuple(map(from_proto, answer.recoveries)), tuple(map(from_proto, answer.silent))
    )


async def read_recovery(
    core: Core, host: str, name: str, *, timeout_seconds: float | None
) -> tuple[RecoveredChange, ...]:
    """See `PoolClient.recovery`."""
    deadline = core.deadline(timeout_seconds)
    found: list[RecoveredChange] = []
    request = pb.GetRecoveryRequest(host=host, name=name)
    while True:
        answer = await core.transport.ask(lambda c: c.pool.GetRecovery, request, deadline)
        found += map(_change, answer.lines)
        if not answer.HasField("next_page_token"):
            return tuple(found)
        request.page_token = answer.next_page_token


def _change(line: str) -> RecoveredChange:
    told = json.loads(line)
    obj = told["object"]
    return RecoveredChange(
        revision=told["revision"],
        term=told["term"],
        request_id=told["request_id"],
        kind=Kind(obj["kind"]),
        uuid=obj["uuid"],
        name_label=obj["name_label"],
        before=told["before"],
        before_from=told["before_from"],
        after=told["after"],
        line=line,
    )
