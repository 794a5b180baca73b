"""Room that jobs share: first come, first served, and nothing gets lost when somebody leaves."""

from __future__ import annotations

import asyncio

from embatch.frontends.server.jobs.room import Room


def test_first_come_first_served() -> None:
    """Whoever waits for much is not overtaken by those who want little: so jobs take turns."""

    async def play() -> list[str]:
        room = Room(4)
        order: list[str] = []

        async def use(name: str, count: int) -> None:
            taken = await room.take(count)
            order.append(name)
            await asyncio.sleep(0)
            room.give(taken)

        await room.take(3)
        tasks = [asyncio.create_task(use(*each)) for each in (("large", 3), ("small", 1), ("all", 9))]
        await asyncio.sleep(0)
        assert order == []
        room.give(3)
        await asyncio.gather(*tasks)
        assert await room.take(4) == 4
        return order

    assert asyncio.run(play()) == ["large", "small", "all"]


def test_more_than_there_is() -> None:
    """Who wants more places than there are gets all of them, and does not wait for ever."""
    assert asyncio.run(Room(3).take(100)) == 3


def test_leaving() -> None:
    """Who gives up waiting takes nothing along, even if its turn came just then."""

    async def play() -> int:
        room = Room(2)
        await room.take(2)
        first, second = (asyncio.create_task(room.take(2)) for _ in range(2))
        await asyncio.sleep(0)
        room.give(2)  # the first one's turn, which it has not noticed yet
        first.cancel()
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        async with asyncio.timeout(5):
            return await room.take(2)

    assert asyncio.run(play()) == 2


def test_a_leaver_lets_others_pass() -> None:
    """When the one at the head leaves, those behind it that fit go on."""

    async def play() -> int:
        room = Room(2)
        await room.take(1)
        large = asyncio.create_task(room.take(2))
        small = asyncio.create_task(room.take(1))
        await asyncio.sleep(0)
        large.cancel()
        async with asyncio.timeout(5):
            return await small

    assert asyncio.run(play()) == 1
