"""One address of a pool: its channel, its services, and what it means when a call fails."""

from __future__ import annotations

import asyncio

import grpc

from poolclient._errors import PoolClientError, client_error
from poolcore.errors import Reason
from poolcore.wire.channels import OpenChannel
from poolcore.wire.status import error_from_rpc
from poolmanager.v1 import (
    agent_service_pb2_grpc,
    event_service_pb2_grpc,
    host_service_pb2_grpc,
    lock_service_pb2_grpc,
    network_service_pb2_grpc,
    pool_service_pb2_grpc,
    storage_service_pb2_grpc,
    task_service_pb2_grpc,
    vm_service_pb2_grpc,
)


class Connection:
    """One address of the pool: its channel and the services on it."""

    def __init__(self, address: str, open_channel: OpenChannel) -> None:
        self.address = address
        self.channel = open_channel(address)
        self.pool = pool_service_pb2_grpc.PoolServiceStub(self.channel)
        self.host = host_service_pb2_grpc.HostServiceStub(self.channel)
        self.storage = storage_service_pb2_grpc.StorageServiceStub(self.channel)
        self.network = network_service_pb2_grpc.NetworkServiceStub(self.channel)
        self.vm = vm_service_pb2_grpc.VMServiceStub(self.channel)
        self.task = task_service_pb2_grpc.TaskServiceStub(self.channel)
        self.lock = lock_service_pb2_grpc.LockServiceStub(self.channel)
        self.event = event_service_pb2_grpc.EventServiceStub(self.channel)
        self.agent = agent_service_pb2_grpc.AgentServiceStub(self.channel)

    async def ready(self, seconds: float) -> bool:
        """Whether the connection is up, or comes up within `seconds`."""
        if self.channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
            return True
        try:
            await asyncio.wait_for(self.channel.channel_ready(), seconds)
        except TimeoutError:
            return False
        return True


def _lost(error: grpc.aio.AioRpcError, translated: PoolClientError) -> bool:
    """Whether the connection failed rather than the host answered."""
    if translated.reason is Reason.NO_HOST_ANSWERS:
        return True
    # A server that shuts down cancels what it still has; no reason of ours comes with it.
    return error.code() is grpc.StatusCode.CANCELLED and translated.reason is Reason.INTERNAL_ERROR


def failure(error: grpc.aio.AioRpcError, connection: Connection) -> tuple[PoolClientError, bool]:
    """What a failed call means, and whether it was the connection that failed."""
    translated = client_error(error_from_rpc(error, endpoint=connection.address))
    return translated, _lost(error, translated)
