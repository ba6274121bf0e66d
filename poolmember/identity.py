"""Who a host is and which pool it belongs to, and how `host.json` holds it."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from poolcore import SCHEMA_VERSION
from poolcore.errors import PoolError, Reason
from poolcore.model import HostId, PoolId


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """The host founded this pool, or can be its master, and opens its store."""

    pool: PoolId
    incarnation: str
    """Uuid of the store's incarnation."""
    counter: int = 1
    """Of the incarnation."""
    store: str | None = None
    """URL of a shared store; none: `store.db` in the state directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """The host was taken in by this pool and follows its master."""

    pool: PoolId
    pool_name: str
    addresses: tuple[str, ...]
    """`host:port` of the pool's known hosts, where its master can be asked for."""
    store: str | None = None
    """URL of a store that this host shares; none: the store is the master's alone."""


Membership = Own | Member


def leads_always(membership: Membership) -> bool:
    """Whether nobody but this host can be the master: it founded the pool, and has its store."""
    return isinstance(membership, Own) and membership.store is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who the host is, and which pool it belongs to; no membership: one is to be founded."""

    host: HostId
    name: str
    membership: Membership | None = None
    witness: bool = False
    """As its daemon was started when it founded the pool that it has been in since, or left."""


def new_identity(name: str, *, witness: bool = False) -> Identity:
    """The identity of a host that starts for the first time."""
    return Identity(host=HostId(str(uuid.uuid4())), name=name, witness=witness)


def as_started(identity: Identity, *, name: str, witness: bool) -> Identity:
    """The identity of a host whose daemon is started again: its name may be another one.

    `WITNESS_CHANGED` if it was started as the other kind of host: what it has brought into its
    pool, and what the pool counts on, would not be so any more. Without a pool it may change.
    """
    membership = identity.membership
    if membership is not None and identity.witness != witness:
        kinds = {True: "a witness", False: "no witness"}
        pool = f"pool {membership.pool_name}" if isinstance(membership, Member) else "its own pool"
        raise PoolError(
            Reason.WITNESS_CHANGED,
            host=identity.name,
            before=kinds[identity.witness],
            after=kinds[witness],
            pool=pool,
            how="with --witness" if identity.witness else "without --witness",
        )
    return replace(identity, name=name, witness=witness)


@dataclass(frozen=True, slots=True)
class Document:
    """What `host.json` holds: the identity, and renames that belong to it."""

    identity: Identity
    retire: tuple[tuple[str, str], ...] = ()


def encode(document: Document) -> str:
    """The text of `host.json`."""
    identity, membership = document.identity, document.identity.membership
    plain: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "host": identity.host,
        "name": identity.name,
        "witness": identity.witness,
        "membership": None,
    }
    if isinstance(membership, Own):
        plain["membership"] = {
            "role": "own",
            "pool": membership.pool,
            "incarnation": membership.incarnation,
            "counter": membership.counter,
            "store": membership.store,
        }
    elif isinstance(membership, Member):
        plain["membership"] = {
            "role": "member",
            "pool": membership.pool,
            "pool_name": membership.pool_name,
            "addresses": list(membership.addresses),
            "store": membership.store,
        }
    if document.retire:
        plain["retire"] = [list(pair) for pair in document.retire]
    return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def _text(plain: dict[str, Any], key: str) -> str:
    value = plain[key]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} is {value!r}")
    return value


def _count(plain: dict[str, Any], key: str) -> int:
    value = plain[key]
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{key} is {value!r}")
    return value


def _uuid(plain: dict[str, Any], key: str) -> str:
    return str(uuid.UUID(_text(plain, key)))


def _flag(plain: dict[str, Any], key: str) -> bool:
    value = plain.get(key, False)
    if not isinstance(value, bool):
        raise ValueError(f"{key} is {value!r}")
    return value


def _decode_membership(plain: dict[str, Any]) -> Membership:
    store = None if plain["store"] is None else _text(plain, "store")
    match plain["role"]:
        case "own":
            return Own(
                pool=PoolId(_uuid(plain, "pool")),
                incarnation=_uuid(plain, "incarnation"),
                counter=_count(plain, "counter"),
                store=store,
            )
        case "member":
            return Member(
                pool=PoolId(_uuid(plain, "pool")),
                pool_name=str(plain["pool_name"]),
                addresses=tuple(str(address) for address in plain["addresses"]),
                store=store,
            )
        case role:
            raise ValueError(f"role is {role!r}")


def _rename(source: str, target: str) -> tuple[str, str]:
    if re.fullmatch(r"[a-z]+\.db\n[a-z]+\.db\.retired-\d+", f"{source}\n{target}") is None:
        raise ValueError(f"it wants to rename {source!r} to {target!r}")
    return source, target


def corrupt(path: Path, problem: str) -> PoolError:
    """What is said of state in `path` that cannot be understood."""
    return PoolError(Reason.STATE_CORRUPT, path=str(path), problem=problem)


def decode(path: Path, data: bytes) -> Document:
    """What `data` says, read from `path`; `STATE_CORRUPT` or `STATE_SCHEMA_TOO_NEW` otherwise."""
    try:
        plain = json.loads(data)
        if not isinstance(plain, dict):
            raise ValueError("it is no JSON object")
        schema = plain["schema_version"]
        if not isinstance(schema, int) or schema < 1:
            raise ValueError(f"schema_version is {schema!r}")
        if schema > SCHEMA_VERSION:
            raise PoolError(
                Reason.STATE_SCHEMA_TOO_NEW,
                path=str(path),
                found=str(schema),
                known=str(SCHEMA_VERSION),
            )
        membership = plain["membership"]
        identity = Identity(
            host=HostId(_uuid(plain, "host")),
            name=_text(plain, "name"),
            witness=_flag(plain, "witness"),
            membership=None if membership is None else _decode_membership(membership),
        )
        retire = tuple(_rename(*pair) for pair in plain.get("retire", ()))
    except KeyError as error:
        raise corrupt(path, f"{error.args[0]} is missing") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise corrupt(path, str(error)) from None
    return Document(identity, retire)
