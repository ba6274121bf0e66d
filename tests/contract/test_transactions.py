"""The store's contract: transactions, reads, cancellation, closing."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from contract.engines import Engine
from poolmaster.store.contract import (
    Compare,
    Item,
    Store,
    StoreUnavailable,
    TransactionTooLarge,
    Write,
    prefix_end,
)

EVERYTHING = (b"\x00", b"\xff\xff")


async def content(store: Store) -> dict[bytes, bytes]:
    return {item.key: item.value for item in (await store.read(*EVERYTHING)).items}


async def value(store: Store, key: bytes) -> bytes | None:
    items = (await store.read(key)).items
    return items[0].value if items else None


# -- atomic ---------------------------------------------------------------------------------------


async def test_all_writes_of_a_transaction_happen(store: Store) -> None:
    await store.transact([], [Write(b"gone", b"1")])

    assert await store.transact(
        [Compare(b"gone", b"1"), Compare(b"a", None)],
        [Write(b"a", b"1"), Write(b"b", b"2"), Write(b"gone", None)],
    )

    assert await content(store) == {b"a": b"1", b"b": b"2"}


@pytest.mark.parametrize(
    "compare", [Compare(b"a", b"2"), Compare(b"a", None), Compare(b"b", b"1"), Compare(b"a", b"")]
)
async def test_nothing_is_written_when_one_compare_fails(store: Store, compare: Compare) -> None:
    await store.transact([], [Write(b"a", b"1")])

    assert not await store.transact(
        [Compare(b"a", b"1"), compare], [Write(b"a", b"3"), Write(b"c", b"4")]
    )

    assert await content(store) == {b"a": b"1"}
    assert (await store.read(b"a")).version == 1


async def test_compares_see_the_state_before_the_writes(store: Store) -> None:
    assert await store.transact([Compare(b"a", None)], [Write(b"a", b"1")])
    assert await store.transact([Compare(b"a", b"1")], [Write(b"a", None)])
    assert await store.transact([Compare(b"a", None)], [Write(b"a", b"2")])


async def test_an_empty_value_is_not_an_absent_one(store: Store) -> None:
    await store.transact([], [Write(b"a", b"")])

    assert not await store.transact([Compare(b"a", None)], [Write(b"b", b"1")])
    assert await store.transact([Compare(b"a", b"")], [Write(b"c", b"1")])
    assert await content(store) == {b"a": b"", b"c": b"1"}


async def test_a_key_may_be_written_once_only(store: Store) -> None:
    with pytest.raises(ValueError, match="once"):
        await store.transact([], [Write(b"a", b"1"), Write(b"a", None)])

    assert await content(store) == {}


async def test_without_writes_it_only_compares(store: Store) -> None:
    assert await store.transact([Compare(b"a", None)], [])
    assert not await store.transact([Compare(b"a", b"1")], [])
    assert (await store.read(b"a")).version == 0


async def test_the_version_counts_the_transactions_that_wrote(store: Store) -> None:
    async def version_after(compares: list[Compare], writes: list[Write]) -> int:
        await store.transact(compares, writes)
        return (await store.read(b"a")).version

    assert (await store.read(b"a")).version == 0
    assert await version_after([], [Write(b"a", b"1"), Write(b"b", b"1")]) == 1
    assert await version_after([], [Write(b"a", b"1")]) == 2, "the same value counts"
    assert await version_after([Compare(b"a", None)], [Write(b"a", b"2")]) == 2
    assert await version_after([], [Write(b"never-there", None)]) == 2
    assert await version_after([], [Write(b"b", None), Write(b"never-there", None)]) == 3


async def test_an_item_says_which_version_wrote_it_last(store: Store) -> None:
    await store.transact([], [Write(b"a", b"1"), Write(b"b", b"1")])
    await store.transact([], [Write(b"b", b"2")])

    assert (await store.read(*EVERYTHING)).items == (
        Item(b"a", b"1", version=1),
        Item(b"b", b"2", version=2),
    )


async def test_a_transaction_that_is_too_large_is_refused_whole(
    store: Store, engine: Engine
) -> None:
    with pytest.raises(TransactionTooLarge):
        await store.transact([], [Write(b"a", b"1"), Write(b"b", bytes(engine.too_many_bytes))])

    assert await content(store) == {}
    assert await store.transact([], [Write(b"a", b"1")])


# -- reading --------------------------------------------------------------------------------------


async def test_a_range_is_half_open_and_in_order_of_bytes(store: Store) -> None:
    keys = [b"a", b"a\x00", b"a\x7f", b"a\x80", b"a\xff", b"b", b"\xfe"]
    await store.transact([], [Write(key, b"") for key in reversed(keys)])

    result = await store.read(b"a\x00", b"b")

    assert [item.key for item in result.items] == [b"a\x00", b"a\x7f", b"a\x80", b"a\xff"]
    assert [item.key for item in (await store.read(*EVERYTHING)).items] == keys
    assert (await store.read(b"b", b"b")).items == ()
    assert (await store.read(b"c", b"a")).items == ()


async def test_the_end_of_a_prefix_holds_all_of_its_keys_and_no_other(store: Store) -> None:
    inside = [b"p/\xff", b"p/\xff\x00", b"p/\xff\xff\xff"]
    await store.transact([], [Write(key, b"") for key in [b"p/", b"p/\xfe", *inside, b"p0"]])

    prefix = b"p/\xff"
    found = await store.read(prefix, prefix_end(prefix))

    assert [item.key for item in found.items] == inside


async def test_pages_together_are_the_whole(store: Store) -> None:
    keys = [b"key-%03d" % number for number in range(25)]
    await store.transact([], [Write(key, b"x") for key in keys])
    pages: list[list[bytes]] = []
    start, more = b"key-", True
    while more:
        result = await store.read(start, b"key.", limit=10)
        pages.append([item.key for item in result.items])
        start, more = pages[-1][-1] + b"\x00", result.more

    assert [len(page) for page in pages] == [10, 10, 5]
    assert [key for page in pages for key in page] == keys


async def test_a_page_that_holds_exactly_the_rest_is_the_last(store: Store) -> None:
    await store.transact([], [Write(b"a", b""), Write(b"b", b"")])

    assert not (await store.read(b"a", b"c", limit=2)).more
    assert (await store.read(b"a", b"c", limit=1)).more
    with pytest.raises(ValueError, match="limit"):
        await store.read(b"a", b"c", limit=0)


async def test_what_one_handle_was_told_is_written_every_handle_sees(
    store: Store, other: Store
) -> None:
    for number in range(20):
        wrote, reads = (store, other) if number % 2 else (other, store)
        assert await wrote.transact([], [Write(b"a", b"%d" % number)])
        assert await value(reads, b"a") == b"%d" % number


async def test_a_read_is_never_torn_and_never_goes_back(store: Store, other: Store) -> None:
    writing = True

    async def write() -> None:
        nonlocal writing
        for number in range(60):
            same = b"%d" % number
            await store.transact([], [Write(b"a", same), Write(b"m", same), Write(b"z", same)])
        writing = False

    async def read(linearizable: bool) -> None:
        version = 0
        while writing:
            result = await other.read(b"a", b"zz", linearizable=linearizable)
            assert len({item.value for item in result.items}) <= 1
            assert {item.version for item in result.items} <= {result.version}
            assert result.version >= version
            version = result.version

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        group.create_task(read(linearizable=True))
        group.create_task(read(linearizable=False))


# -- concurrency ----------------------------------------------------------------------------------


async def test_of_two_handles_that_race_for_a_key_exactly_one_wins(
    store: Store, other: Store
) -> None:
    before: bytes | None = None
    for round_ in range(20):
        mine, theirs = b"store-%d" % round_, b"other-%d" % round_
        outcomes = await asyncio.gather(
            store.transact([Compare(b"head", before)], [Write(b"head", mine)]),
            other.transact([Compare(b"head", before)], [Write(b"head", theirs)]),
        )
        assert sorted(outcomes) == [False, True]
        before = mine if outcomes[0] else theirs
        assert await value(store, b"head") == await value(other, b"head") == before


async def test_no_increment_is_lost(store: Store, other: Store) -> None:
    async def increment(handle: Store, times: int) -> None:
        while times:
            old = await value(handle, b"n")
            new = b"%d" % (int(old or 0) + 1)
            times -= await handle.transact([Compare(b"n", old)], [Write(b"n", new)])

    async with asyncio.TaskGroup() as group:
        for handle in (store, store, other, other):
            group.create_task(increment(handle, 6))

    assert await value(store, b"n") == b"24"
    assert (await store.read(b"n")).version == 24


# -- cancellation ---------------------------------------------------------------------------------


async def test_cancelling_a_caller_leaves_the_whole_transaction_or_nothing(
    store: Store, other: Store
) -> None:
    for number in range(24):
        keys = [b"%d-%d" % (number, part) for part in range(20)]
        async with asyncio.TaskGroup() as group:
            transaction = group.create_task(store.transact([], [Write(key, b"1") for key in keys]))
            for _ in range(number % 8):
                await asyncio.sleep(0)
            transaction.cancel()
            with suppress(asyncio.CancelledError):
                await transaction
        assert await store.transact([], [Write(b"after", b"%d" % number)]), "still of use"
        found = (await other.read(b"%d-" % number, b"%d." % number)).items
        assert len(found) in {0, len(keys)}
        assert await value(other, b"after") == b"%d" % number


async def test_a_cancelled_read_leaves_the_store_usable(store: Store) -> None:
    await store.transact([], [Write(b"a", b"1")])
    for turns in range(6):
        async with asyncio.TaskGroup() as group:
            read = group.create_task(store.read(b"a"))
            for _ in range(turns):
                await asyncio.sleep(0)
            read.cancel()
    assert await value(store, b"a") == b"1"


# -- closing --------------------------------------------------------------------------------------


async def test_closing_gives_transactions_in_flight_their_outcome(
    store: Store, engine: Engine
) -> None:
    async with asyncio.TaskGroup() as group:
        running = [
            group.create_task(store.transact([], [Write(b"%d" % number, b"1")]))
            for number in range(10)
        ]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await store.close()
        outcomes = [await transaction for transaction in running]

    assert outcomes == [True] * 10
    assert len(await content(await engine.open())) == 10


async def test_nothing_is_served_after_closing(store: Store, other: Store) -> None:
    lease = await other.grant_lease(5)
    await other.close()
    await other.close()

    for call in (
        lambda: other.transact([], [Write(b"a", b"1")]),
        lambda: other.read(b"a"),
        lambda: other.grant_lease(5),
        lambda: other.keep_alive(lease),
        lambda: other.revoke(lease),
    ):
        with pytest.raises(StoreUnavailable):
            await call()
    assert [event async for event in other.watch(*EVERYTHING, after_version=0)] == []
    assert await store.transact([], [Write(b"a", b"1")]), "other handles go on"


async def test_what_was_written_is_there_when_everything_was_closed(
    store: Store, engine: Engine
) -> None:
    await store.transact([], [Write(b"a", b"1"), Write(b"b", b"2")])
    await store.transact([], [Write(b"b", None)])
    await store.close()

    reopened = await engine.open()

    assert await content(reopened) == {b"a": b"1"}
    assert (await reopened.read(b"a")).version == 2
