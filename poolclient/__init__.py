"""The client library of the pool manager: asynchronous first, with a blocking twin.

::

    async with PoolClient.connect("10.0.0.1", "10.0.0.2") as pool:
        vm = await pool.vms.get("web1")

The objects are those of `poolcore.model`. Everything public is named here.
"""

from poolclient._address import DEFAULT_PORT, normal_address
from poolclient._backup import Restored, RestorePlan, read_backup
from poolclient._blocking import (
    BlockingCollection,
    BlockingHostCollection,
    BlockingMirror,
    BlockingPoolClient,
    BlockingTaskHandle,
    BlockingWritableCollection,
)
from poolclient._blocking_emergency import BlockingEmergencyHost
from poolclient._blocking_lock import BlockingPoolLock
from poolclient._client import PoolClient
from poolclient._core import Options
from poolclient._difference import Difference
from poolclient._drill import DrillReport
from poolclient._emergency import AskedHost, EmergencyHost, Transition
from poolclient._errors import (
    Ambiguous,
    Conflict,
    Failed,
    HistoryGone,
    InvalidRequest,
    JoinRefused,
    LockHeld,
    LockLost,
    NoHostAnswers,
    NoMaster,
    NotAllowed,
    NotFound,
    OutcomeUnknown,
    PoolClientError,
    StaleAnswer,
    TaskCancelled,
    TimedOut,
)
from poolclient._events import Event
from poolclient._freshness import Cursor, Freshness
from poolclient._gone import DeadHost, ForgetPreview, ForgottenHost, NamedObject
from poolclient._history import Reign
from poolclient._locks import PoolLock
from poolclient._mirror import Mirror
from poolclient._objects import Collection, HostCollection, Listing, WritableCollection
from poolclient._picture import View, ViewTable
from poolclient._recovery import RecoveredChange, Recoveries
from poolclient._status import (
    HostCheck,
    HostReport,
    HostStatus,
    PoolStatus,
    Quorum,
    Role,
    StatusWarning,
)
from poolclient._tasks import TaskHandle
from poolclient._writes import Changes, Committed
from poolcore.wire.backup import Backup

__all__ = [
    "DEFAULT_PORT",
    "Ambiguous",
    "AskedHost",
    "Backup",
    "BlockingCollection",
    "BlockingEmergencyHost",
    "BlockingHostCollection",
    "BlockingMirror",
    "BlockingPoolClient",
    "BlockingPoolLock",
    "BlockingTaskHandle",
    "BlockingWritableCollection",
    "Changes",
    "Collection",
    "Committed",
    "Conflict",
    "Cursor",
    "DeadHost",
    "Difference",
    "DrillReport",
    "EmergencyHost",
    "Event",
    "Failed",
    "ForgetPreview",
    "ForgottenHost",
    "Freshness",
    "HistoryGone",
    "HostCheck",
    "HostCollection",
    "HostReport",
    "HostStatus",
    "InvalidRequest",
    "JoinRefused",
    "Listing",
    "LockHeld",
    "LockLost",
    "Mirror",
    "NamedObject",
    "NoHostAnswers",
    "NoMaster",
    "NotAllowed",
    "NotFound",
    "Options",
    "OutcomeUnknown",
    "PoolClient",
    "PoolClientError",
    "PoolLock",
    "PoolStatus",
    "Quorum",
    "RecoveredChange",
    "Recoveries",
    "Reign",
    "RestorePlan",
    "Restored",
    "Role",
    "StaleAnswer",
    "StatusWarning",
    "TaskCancelled",
    "TaskHandle",
    "TimedOut",
    "Transition",
    "View",
    "ViewTable",
    "WritableCollection",
    "normal_address",
    "read_backup",
]
