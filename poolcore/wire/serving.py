"""Method handlers from plain functions.

A service is a mapping from method names to functions that take and return messages:

* unary: `async (request) -> response`
* server streaming: `async (request, send) -> None`, where `await send(response)` sends one
* both streaming: `async (requests, send) -> None`, where `requests` is an asynchronous iterator

Functions raise `PoolError` to refuse. Whatever else they raise is a bug: the caller gets INTERNAL
with an incident id, the log gets the rest, and no text of it leaves the host.
"""

from __future__ import annotations

import functools
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError

from poolcore.errors import PoolError, Reason
from poolcore.wire.codec import MalformedMessage
from poolcore.wire.status import status_of

log = logging.getLogger(__name__)

Context = Any
"""`grpc.aio.ServicerContext`; its generic parameters say nothing here."""
Handlers = dict[str, Any]
"""gRPC's method handlers by full method path, `/package.Service/Method`."""
Send = Callable[[Any], Awaitable[None]]


def error_of(exception: Exception, *, method: str, host: str) -> PoolError:
    """The error to answer with; an unexpected one is logged under an incident id."""
    if isinstance(exception, PoolError):
        return exception
    if isinstance(exception, MalformedMessage):
        return PoolError(Reason.INVALID_VALUE, field="request", problem=str(exception))
    incident = secrets.token_hex(4)
    log.error("incident %s in %s", incident, method, exc_info=exception)
    return PoolError(Reason.INTERNAL_ERROR, incident=incident, host=host)


async def abort(context: Context, error: PoolError) -> None:
    """End a call with an error of the catalog."""
    code, text, metadata = status_of(error)
    await context.abort(code, text, metadata)


async def _unary(
    function: Callable[[Any], Awaitable[Any]],
    method: str,
    host: str,
    request: Any,
    context: Context,
) -> Any:
    try:
        return await function(_well_formed(request))
    except Exception as exception:
        error = error_of(exception, method=method, host=host)
    await abort(context, error)
    return None


async def _streaming(
    function: Callable[[Any, Send], Awaitable[None]],
    method: str,
    host: str,
    request: Any,
    context: Context,
) -> None:
    try:
        return await function(_well_formed(request), context.write)
    except Exception as exception:
        error = error_of(exception, method=method, host=host)
    await abort(context, error)


def _decoder(message: Any) -> Callable[[bytes], Any]:
    """Gives the message or, as a value, what is wrong with its bytes.

    gRPC answers an exception in a decoder by itself, with the text of the exception.
    """

    def decode(data: bytes) -> Any:
        try:
            return message.FromString(data)
        except DecodeError as error:
            return MalformedMessage(str(error))

    return decode


def _well_formed(request: Any) -> Any:
    if isinstance(request, MalformedMessage):
        raise request
    return request


def _handler(method: MethodDescriptor, function: Any, host: str) -> Any:
    request = message_factory.GetMessageClass(method.input_type)
    response = message_factory.GetMessageClass(method.output_type)
    if method.server_streaming:
        make = (
            grpc.stream_stream_rpc_method_handler
            if method.client_streaming
            else grpc.unary_stream_rpc_method_handler
        )
        behaviour = functools.partial(_streaming, function, method.full_name, host)
    else:
        make = grpc.unary_unary_rpc_method_handler
        behaviour = functools.partial(_unary, function, method.full_name, host)
    return make(
        behaviour,
        request_deserializer=_decoder(request),
        response_serializer=response.SerializeToString,
    )


def path_of(method: MethodDescriptor) -> str:
    """The method's path on the wire."""
    return f"/{method.containing_service.full_name}/{method.name}"


def handlers(
    service: ServiceDescriptor, functions: Mapping[str, Callable[..., Any]], *, host: str
) -> Handlers:
    """The handlers of a service; `TypeError` unless `functions` are exactly its methods."""
    methods = {m.name: m for m in service.methods}
    if methods.keys() != functions.keys():
        difference = sorted(methods.keys() ^ functions.keys())
        raise TypeError(f"{service.full_name} and its functions differ in {difference}")
    return {path_of(m): _handler(m, functions[name], host) for name, m in methods.items()}


Requests = AsyncIterator[Any]
