"""The driver for hypervisors that libvirt manages, QEMU in the first place.

    driver ── survey ── connection ── blocking_calls        asks libvirt, in threads
       │         └── rtnetlink, resolver                    asks the kernel and the resolver
       └── assembly ── domain_xml, storage_xml,             translates, purely
                       network_xml, hypervisor_xml,
                       interfaces

Nothing here changes anything on the host.
"""

from poolmember.drivers.libvirt_driver.driver import LibvirtDriver

__all__ = ["LibvirtDriver"]
