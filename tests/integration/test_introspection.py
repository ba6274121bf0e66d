"""What orchestrators and `grpcurl` look for: health and reflection, at every host."""

from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from poolcore.wire.channels import open_channel
from support.daemons import Cluster


async def test_every_host_is_healthy_and_tells_its_services(cluster: Cluster) -> None:
    phantom, ignite = cluster.local("phantom"), cluster.local("ignite")
    await cluster.start(phantom, ignite)
    async with phantom.api() as api:
        await api.join(ignite.endpoint)

    for host in (phantom, ignite):
        async with open_channel(host.endpoint) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(  # type: ignore[attr-defined]  # not in its stubs
                health_pb2.HealthCheckRequest(), timeout=5
            )
            assert answer.status == health_pb2.HealthCheckResponse.SERVING

            stub: Any = reflection_pb2_grpc.ServerReflectionStub
            reflection = stub(channel)  # its stubs know only blocking channels
            questions = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            call = reflection.ServerReflectionInfo(questions, timeout=5)
            services = {
                service.name
                async for page in call
                for service in page.list_services_response.service
            }
        assert {
            "poolmanager.v1.PoolService",
            "poolmanager.v1.HostService",
            "poolmanager.v1.StorageService",
            "poolmanager.v1.NetworkService",
            "poolmanager.v1.VMService",
            "poolmanager.v1.TaskService",
            "poolmanager.v1.LockService",
            "poolmanager.v1.EventService",
            "poolmanager.v1.MemberService",
            "poolmanager.v1.AgentService",
            "grpc.health.v1.Health",
        } <= services
