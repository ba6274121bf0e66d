"""How this project's servers and channels are set up; the same on every side.

`grpc.so_reuseport=0`: otherwise two daemons could silently share one port. Keepalive on both
sides: a peer whose machine vanished sends no reset, and is to be noticed all the same.
"""

from __future__ import annotations

from collections.abc import Callable

import grpc

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Larger messages are refused before they are read. The largest honest one is the inventory of a
host with many thousand VMs; answers are paged or streamed."""

_KEEPALIVE: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    *_KEEPALIVE,
)

CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Not a pause, whatever its name says, but how long one attempt may take: less, and a host that
    # is merely busy for a moment counts as one that does not speak gRPC.
    ("grpc.min_reconnect_backoff_ms", 3_000),
    # A channel per peer, not a shared one below: a dead connection of one user of the library
    # must not be found by another.
    ("grpc.use_local_subchannel_pool", 1),
    # Environment proxies are not meant for hosts of the pool.
    ("grpc.enable_http_proxy", 0),
    *_KEEPALIVE,
)


OpenChannel = Callable[[str], grpc.aio.Channel]
"""Opens the way to an endpoint, as `open_channel` does; a simulation has a network of its own."""


def open_channel(endpoint: str) -> grpc.aio.Channel:
    """A channel to `host:port` or `unix:///path`; connects when it is first used."""
    return grpc.aio.insecure_channel(endpoint, options=CHANNEL_OPTIONS)
