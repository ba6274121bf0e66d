"""The daemon's configuration: flag > environment > file > default, checked before anything starts.

Every key has one name: `state_dir` in the file is `--state-dir` as a flag and
`POOLMEMBER_STATE_DIR` in the environment. Whatever is wrong with a value is raised as
`INVALID_CONFIGURATION` and names the place the value came from.
"""

from __future__ import annotations

import difflib
import os
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poolcore.errors import PoolError, Reason
from poolcore.replica import DEFAULT_HISTORY_REVISIONS
from poolmaster.store.urls import StoreUrl
from poolmember.config_values import (
    DEFAULT_PORT,
    KEYS,
    PARSERS,
    DriverSpec,
    Endpoint,
    LibvirtDriver,
    LogFormat,
    LogLevel,
    NoDriver,
    Problem,
    Value,
    parse_endpoint,
    parse_name,
    parse_text,
)

DEFAULT_CONFIG_FILE = Path("/etc/poolmember/config.toml")
DEFAULT_STATE_DIR = Path("/var/lib/poolmember")
DEFAULT_SOCKET = Path("/run/poolmember/api.sock")
DEFAULT_HOOKS_DIR = Path("/etc/poolmember/hooks.d")
DEFAULT_HOOK_SECONDS = 30.0
POOL_FILE = "pool.json"

_SOCKET_PATH_BYTES = 107  # what sockaddr_un holds on Linux, without the final zero


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What `poolmember run` was told, complete and valid."""

    name: str
    """Of the host, at most 255 bytes of UTF-8, without control characters."""
    listen: Endpoint
    advertise: Endpoint
    """Where others reach this host; never a wildcard address."""
    state_dir: Path
    """Absolute."""
    driver: DriverSpec
    store: StoreUrl | None
    """What a pool founded by this host keeps its metadata in; none: a file in `state_dir`."""
    witness: bool
    """The host votes and keeps a replica, runs no VMs and never becomes master of others."""
    voter: bool
    """The host may run a member of the pool's own etcd."""
    insecure: bool
    log_format: LogFormat
    log_level: LogLevel
    builtin_srs: tuple[str, ...]
    """Names of storage pools that every fresh host has, besides libvirt's `default`."""
    history_revisions: int
    """How many commits a pool founded by this host remembers."""
    hooks_dir: Path
    """Where executables are looked for that are run when this host's place in the pool changes."""
    hook_seconds: float
    """How long each of them may take."""


class Sources:
    """Flags, environment and file on top of each other.

    `flags` holds what the command line gave, by key; none stands for a flag that was not given.
    The file is the flag `config`, else `POOLMEMBER_CONFIG`, else the default file if it exists.
    """

    def __init__(self, flags: Mapping[str, object], environ: Mapping[str, str]) -> None:
        self._flags = flags
        self._environ = environ
        self._file, self._folder, self._content = self._read_file()

    def _given(self, key: str) -> Value | None:
        here = Path.cwd()
        if (flag := self._flags.get(key)) is not None:
            return Value(flag, "--" + key.replace("_", "-"), here)
        variable = f"POOLMEMBER_{key.upper()}"
        if variable in self._environ:
            return Value(self._environ[variable], variable, here)
        return None

    def _read_file(self) -> tuple[str, Path, Mapping[str, object]]:
        given = self._given("config")
        if given is None:
            path, place = DEFAULT_CONFIG_FILE, str(DEFAULT_CONFIG_FILE)
        else:
            path, place = given.folder / str(given.raw), given.place
        problem, content = "", {}
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if given is None:
                return str(path), path.parent, {}
            problem = f"there is no file {path}"
        except OSError as error:
            problem = f"{path} cannot be read: {error.strerror}"
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            problem = f"{path} is not valid TOML: {error}"
        if problem:
            raise PoolError(Reason.INVALID_CONFIGURATION, key=place, problem=problem)
        for key in content:
            if key not in PARSERS:
                close = difflib.get_close_matches(key.replace("-", "_"), KEYS, n=1)
                hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(KEYS)}"
                raise PoolError(
                    Reason.INVALID_CONFIGURATION,
                    key=f"{path}: {key}",
                    problem=f"there is no such key{hint}",
                )
        return str(path), path.parent, content

    def value(self, key: str) -> Value | None:
        """What the topmost layer that has `key` says, unparsed."""
        given = self._given(key)
        if given is None and key in self._content:
            return Value(self._content[key], f"{self._file}: {key}", self._folder)
        return given

    def parsed(self, key: str, default: Any) -> Any:
        """The valid value of `key`, or `default` when no layer has it."""
        value = self.value(key)
        if value is None:
            return default
        try:
            return PARSERS[key](value)
        except Problem as problem:
            raise value.refuse(str(problem)) from None


def _advertised(sources: Sources, listen: Endpoint) -> Endpoint:
    value = sources.value("advertise")
    if value is None:
        if listen.is_wildcard:
            raise PoolError(
                Reason.INVALID_CONFIGURATION,
                key="--advertise",
                problem=f"is needed: {listen} is no address that other hosts can connect to",
            )
        return listen
    try:
        endpoint = parse_endpoint(parse_text(value), default_port=listen.port)
    except Problem as problem:
        raise value.refuse(str(problem)) from None
    if endpoint.is_wildcard:
        raise value.refuse(f"{endpoint} is no address that other hosts can connect to")
    return endpoint


def socket_path(state_dir: Path) -> Path:
    """Of the host's own API socket: in the state directory, below /run for the default one."""
    return DEFAULT_SOCKET if state_dir == DEFAULT_STATE_DIR else state_dir / DEFAULT_SOCKET.name


def pool_file_path(state_dir: Path) -> Path:
    """Of the file that tells scripts on the host of its pool: beside the socket."""
    return socket_path(state_dir).with_name(POOL_FILE)


def default_hooks_dir(state_dir: Path) -> Path:
    """Below /etc, but in a state directory of its own: two daemons must not share their hooks."""
    hooks = DEFAULT_HOOKS_DIR
    return hooks if state_dir == DEFAULT_STATE_DIR else state_dir / hooks.name


def _check_socket_path(state_dir: Path) -> None:
    path = socket_path(state_dir)
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
        raise PoolError(
            Reason.INVALID_CONFIGURATION,
            key="--state-dir",
            problem=f"is too long: the socket's path {path} may have {_SOCKET_PATH_BYTES} bytes",
        )


def _check_witness(sources: Sources, *, witness: bool) -> None:
    """Refuse what goes only without a witness, and what goes only with one."""
    store, driver = sources.value("store"), sources.value("driver")
    if witness and store is not None:
        raise store.refuse("goes not with --witness: a witness learns the store from its pool")
    if driver is not None and not witness and sources.parsed("driver", None) == NoDriver():
        raise driver.refuse("none goes only with --witness: every other host runs VMs")


def load(flags: Mapping[str, object], environ: Mapping[str, str]) -> Config:
    """The daemon's configuration; `INVALID_CONFIGURATION` for the first thing that is wrong.

    `flags` maps keys to what the command line gave (none: not given) and may hold `config`, the
    path of the file. Reads that file and looks whether a named host file exists; changes nothing.
    """
    sources = Sources(flags, environ)
    listen: Endpoint = sources.parsed("listen", Endpoint("127.0.0.1", DEFAULT_PORT))
    insecure: bool = sources.parsed("insecure", False)
    if not listen.is_loopback and not insecure:
        raise PoolError(
            Reason.INVALID_CONFIGURATION,
            key="--listen",
            problem=f"{listen} is beyond loopback, where connections are not encrypted and whoever "
            "reaches the port rules the pool; say --insecure if the network is closed",
        )
    # The default is checked like any other name: a machine's host name may be odd.
    host_name = Value(socket.gethostname().split(".")[0], "--name", Path.cwd())
    state_dir: Path = sources.parsed("state_dir", DEFAULT_STATE_DIR)
    _check_socket_path(state_dir)
    witness: bool = sources.parsed("witness", False)
    _check_witness(sources, witness=witness)
    return Config(
        name=sources.parsed("name", None) or _checked_host_name(host_name),
        listen=listen,
        advertise=_advertised(sources, listen),
        state_dir=state_dir,
        driver=sources.parsed("driver", NoDriver() if witness else LibvirtDriver()),
        store=sources.parsed("store", None),
        witness=witness,
        voter=sources.parsed("voter", True),
        insecure=insecure,
        log_format=sources.parsed("log_format", LogFormat.TEXT),
        log_level=sources.parsed("log_level", LogLevel.INFO),
        builtin_srs=sources.parsed("builtin_srs", ()),
        history_revisions=sources.parsed("history_revisions", DEFAULT_HISTORY_REVISIONS),
        hooks_dir=sources.parsed("hooks_dir", None) or default_hooks_dir(state_dir),
        hook_seconds=sources.parsed("hook_seconds", DEFAULT_HOOK_SECONDS),
    )


def _checked_host_name(value: Value) -> str:
    try:
        return parse_name(value)
    except Problem as problem:
        raise value.refuse(f"is needed, as this machine's host name {problem}") from None


def state_directory(flags: Mapping[str, object], environ: Mapping[str, str]) -> Path:
    """Only the state directory, for commands that read or reset it without a daemon."""
    path: Path = Sources(flags, environ).parsed("state_dir", DEFAULT_STATE_DIR)
    return path
