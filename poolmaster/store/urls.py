"""Stores that several hosts use: where one is, as one line that hosts can tell each other.

    sqlite:///PATH                                    a file, for the daemons of one machine
    etcd:HOST:PORT,HOST:PORT?prefix=…&ca=…&cert=…&key=…   a cluster, for hosts anywhere

The files of an etcd URL are looked for on each host by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from poolcore.errors import PoolError, Reason
from poolmaster.store.etcd.cluster import Tls
from poolmaster.store.etcd.store import EtcdOptions, EtcdStore
from poolmaster.store.sqlite import SqliteStore

__all__ = ["EtcdUrl", "SharedStore", "SqliteUrl", "StoreUrl", "found", "open_store", "parse"]

SharedStore = SqliteStore | EtcdStore

_QUERY = ("prefix", "ca", "cert", "key")


@dataclass(frozen=True, slots=True)
class SqliteUrl:
    """A file of this machine."""

    path: Path
    """Absolute."""

    def __str__(self) -> str:
        return f"sqlite://{self.path}"


@dataclass(frozen=True, slots=True)
class EtcdUrl:
    """A cluster, and what is needed to speak to it."""

    options: EtcdOptions

    def __str__(self) -> str:
        options, tls = self.options, self.options.tls
        named = {"prefix": options.prefix if options.prefix != EtcdOptions.PREFIX else None}
        if tls is not None:
            named |= {
                "ca": str(tls.ca),
                "cert": None if tls.certificate is None else str(tls.certificate),
                "key": None if tls.key is None else str(tls.key),
            }
        query = urlencode({k: v for k, v in named.items() if v is not None}, safe="/")
        return "etcd:" + ",".join(options.addresses) + (f"?{query}" if query else "")


StoreUrl = SqliteUrl | EtcdUrl


def parse(text: str) -> StoreUrl:
    """The URL that `text` is; `ValueError` says in a clause what is wrong with it."""
    scheme, _, rest = text.partition(":")
    if scheme == "etcd":
        return _parse_etcd(rest)
    if scheme != "sqlite" or not rest.startswith("///"):
        raise ValueError(
            f"must be sqlite:///PATH with an absolute path or etcd:HOST:PORT,…, not {text!r}"
        )
    path = Path("/" + rest.lstrip("/"))
    if path == Path("/"):
        raise ValueError("must name a file")
    return SqliteUrl(path)


def _parse_etcd(rest: str) -> EtcdUrl:
    hosts, _, query = rest.partition("?")
    addresses = tuple(hosts.split(","))
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65_536 or "/" in host:
            raise ValueError(
                f"must name each member of the cluster as HOST:PORT, as in "
                f"etcd:10.0.0.1:2379,10.0.0.2:2379; {address!r} is none"
            )
    given = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := [name for name in given if name not in _QUERY]:
        raise ValueError(f"knows {', '.join(_QUERY)} behind the ?, not {unknown[0]!r}")
    for name in ("ca", "cert", "key"):
        if name in given and not Path(given[name]).is_absolute():
            raise ValueError(f"must give {name} as an absolute path, not {given[name]!r}")
    if ("cert" in given) != ("key" in given) or ("cert" in given and "ca" not in given):
        raise ValueError("must give cert and key together, and ca with them")
    tls = None
    if "ca" in given:
        mine = [Path(given[name]) if name in given else None for name in ("cert", "key")]
        tls = Tls(Path(given["ca"]), *mine)
    options = EtcdOptions(addresses, prefix=given.get("prefix", EtcdOptions.PREFIX), tls=tls)
    return EtcdUrl(options)


async def found(url: str, *, pool: str, incarnation: str) -> SharedStore:
    """Found an empty store there; raises as the engines do."""
    match _parsed(url):
        case SqliteUrl(path):
            return await SqliteStore.found(path, pool=pool, incarnation=incarnation, shared=True)
        case EtcdUrl(options):
            return await EtcdStore.found(options, pool=pool, incarnation=incarnation)


async def open_store(url: str, *, pool: str, incarnation: str | None = None) -> SharedStore:
    """Open the store of a pool there, of this incarnation if one is named; raises as engines do."""
    match _parsed(url):
        case SqliteUrl(path):
            return await SqliteStore.open(path, pool=pool, incarnation=incarnation, shared=True)
        case EtcdUrl(options):
            return await EtcdStore.open(options, pool=pool, incarnation=incarnation)


def etcd_addresses(url: str) -> tuple[str, ...]:
    """`host:port` of each member that an etcd URL names; none of another URL."""
    parsed = _parsed(url)
    return parsed.options.addresses if isinstance(parsed, EtcdUrl) else ()


def _parsed(url: str) -> StoreUrl:
    try:
        return parse(url)
    except ValueError as error:
        raise PoolError(Reason.INVALID_VALUE, field="store", problem=str(error)) from error
