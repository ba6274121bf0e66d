"""Who runs what: the pool's hosts with their VMs and the storage these use.

    python examples/report.py 10.0.0.1 10.0.0.2

A mirror is a live copy of the pool's metadata: after one snapshot every question is answered from
memory, and links lead from object to object. Several addresses stand in for each other.
"""

import asyncio
import sys

from poolclient import PoolClient


async def main(*addresses: str) -> None:
    """Print the report."""
    async with PoolClient.connect(*addresses) as pool, pool.mirror() as mirror:
        await mirror.barrier()  # from here on it has everything that was committed before
        print(f"{mirror.pool.name_label}, revision {mirror.revision}")
        for host in mirror.hosts:
            live = host.metrics is not None and host.metrics.live
            print(f"  {host.name_label} ({'live' if live else 'not live'})")
            for vm in host.resident_vms:
                disks = (vbd.vdi for vbd in vm.vbds)
                srs = {disk.sr.name_label for disk in disks if disk is not None and disk.sr}
                print(f"    {vm.name_label}: {vm.power_state}; storage: {', '.join(srs) or 'none'}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
