"""Tag every VM whose name begins with a prefix.

    python examples/tag_vms.py 10.0.0.1 web production

Changes that are asked for at the same time share a call and a commit, so this is quick for a
thousand VMs, too. Each has an outcome of its own: one that fails does not stop the others.
"""

import asyncio
import sys

from poolclient import PoolClient, PoolClientError


async def main(address: str, prefix: str, tag: str) -> None:
    """Tag the VMs and print each outcome."""
    async with PoolClient.connect(address) as pool:
        vms = [vm async for vm in pool.vms if vm.name_label.startswith(prefix)]
        outcomes = await asyncio.gather(
            *(pool.vms.set(vm, add_tags=[tag]) for vm in vms), return_exceptions=True
        )
    for vm, outcome in zip(vms, outcomes, strict=True):
        if isinstance(outcome, PoolClientError):
            print(f"{vm.name_label}: {outcome.message} {outcome.remedy}")
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            print(f"{vm.name_label}: tagged at revision {outcome.revision}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
