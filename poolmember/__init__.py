"""The daemon of every host: drives the hypervisor, keeps the replica, answers the API."""
