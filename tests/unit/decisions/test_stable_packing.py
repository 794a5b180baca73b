"""Groups hold all units, within the limit and well filled, and an edit moves only the borders near it."""

from __future__ import annotations

import random
from itertools import accumulate, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from embatch.decisions.stable_packing import ROUNDS, Unit, pack_stable

UNITS = st.lists(
    st.builds(Unit, st.integers(0, 15), st.integers(0, 3), st.text("abc", max_size=2)), max_size=60
)
LIMIT = 20


def distinct(seed: int, number: int, most: int = 7) -> list[Unit]:
    """Units as in a text that does not repeat itself."""
    rng = random.Random(seed)
    return [
        Unit(rng.randint(1, most), rng.choice([0, 0, 0, 1, 1, 2]), str(rng.random())) for _ in range(number)
    ]


def border_texts(units: list[Unit], groups: list[tuple[int, int]]) -> dict[str, int]:
    """The unit behind each border -> tokens before it."""
    before = [0, *accumulate(unit.tokens for unit in units)]
    return {units[first].content: before[first] for first, _ in groups}


def moved(units: list[Unit], at: int, gone: int, new: list[Unit]) -> list[int]:
    """How many tokens away from an edit the borders are that it moved."""
    after = units[:at] + new + units[at + gone :]
    old = border_texts(units, pack_stable(units, limit=LIMIT))
    now = border_texts(after, pack_stable(after, limit=LIMIT))
    edited = {unit.content for unit in new + units[at : at + gone]}
    edge = sum(unit.tokens for unit in units[:at])
    removed = sum(unit.tokens for unit in units[at : at + gone])
    added = sum(unit.tokens for unit in new)
    return [
        min(abs(place - edge), abs(place - edge - span))
        for places, others, span in ((old, now, removed), (now, old, added))
        for content, place in places.items()
        if content not in others and content not in edited
    ]


@given(units=UNITS, limit=st.integers(1, 40), wall=st.none() | st.integers(0, 3))
def test_groups_hold_all_units_and_are_within_the_limit(
    units: list[Unit], limit: int, wall: int | None
) -> None:
    """Groups follow each other without a gap, and only a single unit may be over the limit."""
    groups = pack_stable(units, limit=limit, wall=wall)
    assert [at for first, end in groups for at in range(first, end)] == list(range(len(units)))
    for first, end in groups:
        assert first < end
        assert end - first == 1 or sum(unit.tokens for unit in units[first:end]) <= limit
        assert wall is None or all(unit.border < wall for unit in units[first + 1 : end])


@given(units=UNITS)
def test_neighbours_do_not_fit_into_one_group(units: list[Unit]) -> None:
    """Two neighbouring groups have more tokens than the limit, so that groups are half full."""
    sizes = [sum(unit.tokens for unit in units[a:b]) for a, b in pack_stable(units, limit=LIMIT)]
    assert all(left + right > LIMIT for left, right in pairwise(sizes))


@given(same=st.integers(1, 10), number=st.integers(0, 3000))
def test_equal_units_fill_groups_too(same: int, number: int) -> None:
    """A text that repeats one line gets groups that are at least half full."""
    groups = pack_stable([Unit(same, 0, "0,\n")] * number, limit=LIMIT)
    assert all((d - a) * same > LIMIT for (a, _), (_, d) in pairwise(groups))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), at=st.integers(0, 900), gone=st.integers(0, 20), new=st.integers(0, 20))
def test_an_edit_moves_no_border_far_from_it(seed: int, at: int, gone: int, new: int) -> None:
    """Whatever is inserted and removed, borders beyond the stated distance stay where they were."""
    distances = moved(distinct(seed, 900, 15), at, gone, distinct(seed + 1, new, 15))
    assert max(distances, default=0) <= 4 * ROUNDS * LIMIT


def test_hardly_any_border_moves_four_chunks_from_an_edit() -> None:
    """Of 400 edits of one line, none moves a border 8 chunks away, and one in a hundred one 4 chunks away."""
    rng = random.Random(7)
    units = distinct(1, 1000)
    far = [
        max(moved(units, rng.randrange(1000), rng.randrange(2), distinct(1000 + edit, 1)), default=0)
        for edit in range(400)
    ]
    assert sum(distance > 4 * LIMIT for distance in far) <= 4
    assert max(far) <= 8 * LIMIT


def test_cuts_fall_on_good_borders() -> None:
    """Paragraphs that fit into a group are not torn, and groups are filled with several of them."""
    units = [Unit(3, int(at % 3 == 0), f"line {at}") for at in range(300)]
    groups = pack_stable(units, limit=LIMIT)
    assert all(first % 3 == 0 for first, _ in groups)
    assert len(groups) < 100


def test_the_same_content_gives_the_same_groups_in_every_process() -> None:
    """The choice among equal borders is pinned: it must not hang on a process's own hashing."""
    units = [Unit(4, 0, f"line {at}") for at in range(30)]
    assert [first for first, _ in pack_stable(units, limit=LIMIT)] == [0, 5, 8, 13, 16, 19, 24, 26]
