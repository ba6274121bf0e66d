"""Take hosts into a pool, and say why one is refused.

    python examples/grow.py 10.0.0.1 10.0.0.2 10.0.0.3

The first address is the pool's, the others are hosts to add. Each join is a task of the pool: it
goes on if this program ends, and asking again for a host that is joining or has joined does no
harm.
"""

import asyncio
import sys

from poolclient import Conflict, JoinRefused, PoolClient


async def main(pool_address: str, *hosts: str) -> None:
    """Add the hosts one after the other."""
    async with PoolClient.connect(pool_address) as pool:
        for address in hosts:
            try:
                joining = await pool.add_host(address)
                async for task in joining.progress:
                    print(f"{address}: {task.progress:.0%} {task.step}")
                await joining
                print(f"{address}: joined")
            except JoinRefused as refused:
                for finding in refused.findings:
                    print(f"{address}: {finding.explanation} {finding.remedy}")
            except Conflict as conflict:
                print(f"{address}: {conflict.message}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
