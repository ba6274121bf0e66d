"""The shared kernel of the pool manager: the model, the replica, the error catalog and the wire.

`model`, `replica`, `requests`, `facts` and `errors` are pure: they import no I/O, no clock and no
randomness. `wire` is the only place where protobuf and gRPC meet them.
"""

__version__ = "0.1.0"

PRODUCT_VERSION = __version__
"""What preflight row 1 compares between hosts."""

API_VERSION = 1
"""Version of the public API and the member protocol, `poolmanager.v1`."""

SCHEMA_VERSION = 1
"""Version of everything written to disk: the store's layout, the replica, the host's identity."""
