"""Hypervisor drivers: the contract, `libvirt` and `sim`."""
