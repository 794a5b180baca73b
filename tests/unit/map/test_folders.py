"""Which folders get a colour of their own."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from embatch.frontends.map.folders import ALL, OTHER, folders_of, limited, ranked

PARTS = st.lists(st.sampled_from(["a", "b", "c", "src", "tests"]), min_size=1, max_size=5).map("/".join)


@given(paths=st.lists(PARTS, max_size=60), most=st.integers(1, 6))
def test_every_path_is_in_one_of_few_groups_that_holds_it(paths: list[str], most: int) -> None:
    """There is a group for each path, at most so many beside `other`, and a group's name begins its paths."""
    groups = folders_of(paths, most=most)
    assert len(groups) == len(paths)
    assert len(set(groups) - {OTHER, ALL}) <= most
    for path, group in zip(paths, groups, strict=True):
        if group not in {OTHER, ALL}:
            assert path.startswith(group.removesuffix(" (rest)"))


def test_a_group_is_named_as_exactly_as_its_files_allow() -> None:
    """A folder with nothing in it but one other gives its place to that one."""
    assert set(folders_of(["a/b/c/x.py", "a/b/c/y.py"])) == {"a/b/c/"}
    assert folders_of(["a/x.py", "a/b/y.py", "a/b/z.py"]) == ["a/ (rest)", "a/b/", "a/b/"]


def test_the_largest_folders_come_first() -> None:
    """Where there are more folders than groups, the small ones are `other`."""
    paths = [f"{name}/{number}.py" for name, size in (("x", 9), ("y", 5), ("z", 2)) for number in range(size)]
    assert Counter(folders_of(paths, most=2)) == {"x/": 9, "y/": 5, OTHER: 2}


def test_files_without_folders_are_one_group() -> None:
    """Texts that have names and no paths make one group, and no text makes none."""
    assert set(folders_of(["one", "two"])) == {ALL}
    assert folders_of([]) == []


def test_names_are_ranked_by_size_and_small_ones_are_other() -> None:
    """Of many kinds, the largest keep their names."""
    kinds = ["function"] * 3 + ["class"] * 2 + ["block"]
    assert ranked(kinds) == ["function", "class", "block"]
    assert limited(kinds, most=1) == ["function"] * 3 + [OTHER] * 3
