"""A plain script without asyncio: mark the VMs that have no owner.

    python examples/nightly.py 10.0.0.1

`BlockingPoolClient` has the methods of `PoolClient`; each blocks until it is done.
"""

import sys

from poolclient import BlockingPoolClient, NoMaster


def main(*addresses: str) -> None:
    """Mark the VMs."""
    try:
        with BlockingPoolClient.connect(*addresses, require_fresh=True) as pool:
            for vm in pool.vms.list():
                if "owner" not in vm.other_config:
                    done = pool.vms.set(vm, add_tags=["unowned"])
                    print(f"{done.object.name_label} is unowned")
    except NoMaster as error:
        sys.exit(f"{error.message} {error.remedy}")


if __name__ == "__main__":
    main(*sys.argv[1:])
