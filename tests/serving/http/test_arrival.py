"""Bodies that arrive slowly, many at a time, and large; in virtual time."""

import asyncio

import pytest

from galleria.serving.http.arrival import GRACE_S, MAX_CLIENTS, MIN_BYTES_PER_S, ArrivalLimit, MemoryBudget
from galleria.serving.schemas.problems import ProblemError
from tests.serving.virtual_time import run


async def arrive(limit: ArrivalLimit, client: str, rate: int, seconds: float, timeout_s: float = 100) -> int:
    """Receive a body in one piece a second; return 200, or the status of its rejection."""
    try:
        async with asyncio.timeout(None) as deadline:
            with limit.admit(client, deadline, timeout_s) as arrival:
                for _ in range(int(seconds)):
                    await asyncio.sleep(1)
                    arrival.receive(rate)
    except TimeoutError:
        return arrival.problem().status
    except ProblemError as error:
        return error.status
    return 200


@pytest.mark.parametrize(
    ("rate", "seconds", "status"),
    [
        (1, GRACE_S + 2, 408),
        (1, GRACE_S - 1, 200),
        (MIN_BYTES_PER_S // 2, 50, 408),
        (MIN_BYTES_PER_S, 50, 200),
        (10 * MIN_BYTES_PER_S, 150, 408),
    ],
)
def test_slow_body_is_given_up(rate, seconds, status):
    async def main():
        started = asyncio.get_running_loop().time()
        assert await arrive(ArrivalLimit(), "a", rate, seconds) == status
        return asyncio.get_running_loop().time() - started

    assert run(main()) < 101


def test_fast_start_is_no_credit_for_ever():
    async def main():
        async with asyncio.timeout(None) as deadline:
            with ArrivalLimit().admit("a", deadline, 100) as arrival:
                arrival.receive(20 * MIN_BYTES_PER_S)
                await asyncio.sleep(30)

    with pytest.raises(TimeoutError):
        run(main())


def test_slowest_body_makes_way():
    async def main():
        limit = ArrivalLimit(max_bodies=3)
        first = [asyncio.create_task(arrive(limit, "a", rate, 4)) for rate in (30_000, 10, 20_000)]
        other = asyncio.create_task(arrive(limit, "b", 1, 4))
        await asyncio.sleep(2)
        newcomer = asyncio.create_task(arrive(limit, "a", 10_000, 4))
        return await asyncio.gather(*first, other, newcomer)

    assert run(main()) == [200, 429, 200, 200, 200]


def test_young_bodies_do_not_make_way():
    async def main():
        limit = ArrivalLimit(max_bodies=3)
        return await asyncio.gather(*(arrive(limit, "a", 1_000, 3) for _ in range(5)))

    assert run(main()) == [200, 200, 200, 429, 429]


def test_largest_client_makes_way_for_others():
    async def main():
        limit = ArrivalLimit(max_bodies=3)
        clients = "abbccc"[: 3 * MAX_CLIENTS]
        tasks = [asyncio.create_task(arrive(limit, client, 1_000, 4)) for client in clients]
        await asyncio.sleep(2)
        return await arrive(limit, "d", 1_000, 2), [await task for task in tasks]

    newcomer, others = run(main())
    assert newcomer == 200
    assert others.count(429) == 1 and 429 in others[3:]


def test_budget_is_shared_and_freed():
    budget = MemoryBudget(100)
    with budget.hold("a") as first, budget.hold("b") as second:
        first.take(50)
        with pytest.raises(ProblemError) as error:
            first.take(1)
        assert (error.value.status, error.value.headers) == (429, {"Retry-After": "1"})
        second.take(50)
        with budget.hold("c") as third, pytest.raises(ProblemError):
            third.take(1)
        assert budget.size == 100
    assert budget.size == 0
    with budget.hold("a") as first:
        first.take(50)
