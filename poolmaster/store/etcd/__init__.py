"""The engine `etcd`: a cluster of its own, or somebody else's, spoken to over grpcio.

`poolmaster.store.etcd.cluster` is the client: which endpoint is asked, and what its refusals mean.
`poolmaster.store.etcd.store` is the engine.
"""
