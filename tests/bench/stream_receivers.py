"""Receivers of `bench.stream_server`, each over a connection of its own.

    python -m bench.stream_receivers ENDPOINT NUMBER

Prints `ready` when all have their streams, and at the end of these how many messages they got.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from poolcore.wire.channels import open_channel


async def _received(endpoint: str, there: asyncio.Barrier) -> int:
    async with open_channel(endpoint) as channel:
        open_stream: Any = channel.unary_stream("/bench.Streams/Stream")
        messages = aiter(open_stream(b""))
        await anext(messages)
        await there.wait()
        return sum([1 async for _ in messages])


async def main(endpoint: str, number: int) -> None:
    there = asyncio.Barrier(number + 1)
    receiving = asyncio.gather(*(_received(endpoint, there) for _ in range(number)))
    await there.wait()
    print("ready", flush=True)
    print(sum(await receiving), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
