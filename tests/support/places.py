"""How the first host of the small pool may stand in it."""

from dataclasses import replace

from poolcore.model import PoolId
from poolmember.place import Master, Place, Role
from support.small_pool import IGNITE, INCARNATION, PHANTOM, POOL, THEN

LEADING = Place(
    host=PHANTOM,
    host_name="phantom",
    pool=PoolId(POOL),
    pool_name="phantom",
    role=Role.MASTER,
    master=Master(PHANTOM, "phantom", "127.0.0.1:7443"),
    term=2,
    incarnation=INCARNATION,
    revision=10,
    since=THEN,
)
SEARCHING = replace(LEADING, role=Role.SEARCHING, master=None)
FOLLOWING = replace(
    LEADING, role=Role.MEMBER, master=Master(IGNITE, "ignite", "127.0.0.2:7443"), term=3
)
