"""The codes of the join checks: which row each belongs to and what `--force` may do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from poolcore.errors import Origin


class Code(StrEnum):
    """What a finding is about; where XAPI has a code for it, XAPI's."""

    SAME_PRODUCT_VERSION = "POOL_JOINING_HOST_MUST_HAVE_SAME_PRODUCT_VERSION"
    HAS_VMS = "JOINING_HOST_CANNOT_HAVE_VMS"
    HAS_NETWORKS = "POOL_JOINING_HOST_HAS_NETWORKS"
    HAS_BONDS = "POOL_JOINING_HOST_HAS_BONDS"
    HAS_VLANS = "POOL_JOINING_HOST_HAS_NON_MANAGEMENT_VLANS"
    HAS_TUNNELS = "POOL_JOINING_HOST_HAS_TUNNELS"
    HAS_SHARED_SRS = "JOINING_HOST_CANNOT_CONTAIN_SHARED_SRS"
    HAS_EXTRA_SRS = "JOINING_HOST_HAS_EXTRA_SRS"
    ALREADY_IN_POOL = "HOST_ALREADY_IN_POOL"
    IN_ANOTHER_POOL = "JOINING_HOST_CANNOT_BE_MASTER_OF_OTHER_HOSTS"
    DUPLICATE_HOST_UUID = "DUPLICATE_HOST_UUID"
    DUPLICATE_HOST_NAME = "DUPLICATE_HOST_NAME"
    DUPLICATE_HOST_ADDRESS = "DUPLICATE_HOST_ADDRESS"
    STILL_BOOTING = "HOST_STILL_BOOTING"
    HAS_OPERATIONS = "JOINING_HOST_CANNOT_HAVE_VMS_WITH_CURRENT_OPERATIONS"
    IS_UPDATING = "NOT_SUPPORTED_DURING_UPGRADE"
    POOL_SIZE_LIMIT = "POOL_SIZE_LIMIT"
    DUPLICATE_SR_UUID = "DUPLICATE_SR_UUID"
    SAME_API_VERSION = "POOL_JOINING_HOST_MUST_HAVE_SAME_API_VERSION"
    SAME_SCHEMA = "POOL_JOINING_HOST_MUST_HAVE_SAME_DB_SCHEMA"
    NOT_COMPATIBLE = "HOSTS_NOT_COMPATIBLE"
    NOT_HOMOGENEOUS = "HOSTS_NOT_HOMOGENEOUS"
    FEATURES_INCOMPATIBLE = "POOL_JOINING_SM_FEATURES_INCOMPATIBLE"
    BACKENDS_DIFFER = "NETWORK_BACKENDS_DIFFER"
    HA_IS_ENABLED = "HA_IS_ENABLED"
    NO_MANAGEMENT_IP = "HOST_HAS_NO_MANAGEMENT_IP"
    ADDRESS_BY_DHCP = "MANAGEMENT_ADDRESS_BY_DHCP"
    ADDRESS_TYPE_DIFFERS = "PRIMARY_ADDRESS_TYPE_DIFFERS"
    VLAN_DIFFERS = "POOL_JOINING_HOST_MANAGEMENT_VLAN_DOES_NOT_MATCH"
    MTU_MISMATCH = "MTU_MISMATCH"
    CANNOT_REACH_MEMBER = "HOST_CANNOT_REACH_MEMBER"
    CLOCK_SKEW = "CLOCK_SKEW"
    DISK_SPACE = "HOST_DISK_SPACE"
    SLOW_FSYNC = "SLOW_FSYNC"
    ETCD_MISSING = "ETCD_MISSING"
    ETCD_VERSION_REFUSED = "ETCD_VERSION_REFUSED"


class Force(StrEnum):
    """What `--force` may do about the findings of a code; the value is what documents say."""

    NO = "no"
    YES = "yes"
    VERSION_ONLY = "version: yes"
    VENDOR_AND_FEATURES = "vendor, features: yes"
    WARNING = "warning"
    """Nothing to override: the finding never stops a join."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A code's row in the table of checks."""

    row: int
    force: Force = Force.NO
    origin: Origin = Origin.XAPI


OURS = Origin.OURS

RULES: Mapping[Code, Rule] = {
    Code.SAME_PRODUCT_VERSION: Rule(1),
    Code.HAS_VMS: Rule(2, origin=OURS),
    Code.HAS_NETWORKS: Rule(3, origin=OURS),
    Code.HAS_BONDS: Rule(3),
    Code.HAS_VLANS: Rule(3),
    Code.HAS_TUNNELS: Rule(3),
    Code.HAS_SHARED_SRS: Rule(4),
    Code.HAS_EXTRA_SRS: Rule(4, origin=OURS),
    Code.ALREADY_IN_POOL: Rule(5, origin=OURS),
    Code.IN_ANOTHER_POOL: Rule(6),
    Code.DUPLICATE_HOST_UUID: Rule(7, origin=OURS),
    Code.DUPLICATE_HOST_NAME: Rule(7, origin=OURS),
    Code.DUPLICATE_HOST_ADDRESS: Rule(7, origin=OURS),
    Code.STILL_BOOTING: Rule(8),
    Code.HAS_OPERATIONS: Rule(8),
    Code.IS_UPDATING: Rule(8),
    Code.POOL_SIZE_LIMIT: Rule(9, origin=OURS),
    Code.DUPLICATE_SR_UUID: Rule(10, origin=OURS),
    Code.SAME_API_VERSION: Rule(11),
    Code.SAME_SCHEMA: Rule(11),
    Code.NOT_COMPATIBLE: Rule(12, Force.VERSION_ONLY),
    Code.NOT_HOMOGENEOUS: Rule(13, Force.VENDOR_AND_FEATURES),
    Code.FEATURES_INCOMPATIBLE: Rule(14),
    Code.BACKENDS_DIFFER: Rule(15, origin=OURS),
    Code.HA_IS_ENABLED: Rule(16),
    Code.NO_MANAGEMENT_IP: Rule(17),
    Code.ADDRESS_BY_DHCP: Rule(17, Force.WARNING, OURS),
    Code.ADDRESS_TYPE_DIFFERS: Rule(18, origin=OURS),
    Code.VLAN_DIFFERS: Rule(18),
    Code.MTU_MISMATCH: Rule(18, Force.YES, OURS),
    Code.CANNOT_REACH_MEMBER: Rule(19, origin=OURS),
    Code.CLOCK_SKEW: Rule(20, Force.YES, OURS),
    Code.DISK_SPACE: Rule(23, Force.WARNING, OURS),
    Code.SLOW_FSYNC: Rule(23, Force.WARNING, OURS),
    Code.ETCD_MISSING: Rule(24, origin=OURS),
    Code.ETCD_VERSION_REFUSED: Rule(24, origin=OURS),
}
"""Rows 21 and 22 come with trust between hosts."""
