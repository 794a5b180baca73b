"""Which files are found behind paths, folders and patterns, and what they are called."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from embatch.errors import SourceNotFoundError, SourceUnreadableError, UsageError
from embatch.storage.sources import Skip, open_sources

if TYPE_CHECKING:
    from collections.abc import Callable

    Write = Callable[..., None]
    Items = Callable[..., dict[str, str]]
    Errors = Callable[..., dict[str, tuple[str, str]]]


def found(*paths: str) -> list[str]:
    return list(open_sources(paths).files)


def skipped(*paths: str) -> set[tuple[str, str]]:
    sources = open_sources(paths)
    list(sources)
    return {(skip.source, skip.reason) for skip in sources.skipped}


def test_a_folder_is_walked_by_name(write: Write) -> None:
    """Folders and files come in the order of their names, deep ones included."""
    for path in ("d/b.md", "d/a/z.txt", "d/a.txt", "d/a/b/c/d/e.py", "d/B.md"):
        write(path)
    assert found("d") == ["d/B.md", "d/a/b/c/d/e.py", "d/a/z.txt", "d/a.txt", "d/b.md"]


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("d", "d/a.md"),
        ("d/", "d/a.md"),
        ("./d", "d/a.md"),
        (".", "d/a.md"),
        ("d/a.md", "d/a.md"),
        ("./d/a.md", "d/a.md"),
        ("d/../d", "d/a.md"),
        ("*/a.md", "d/a.md"),
        ("**/*.md", "d/a.md"),
        ("d*", "d/a.md"),
    ],
)
def test_keys_are_paths_as_typed(write: Write, typed: str, key: str) -> None:
    """A key begins with what the user typed, tidied; it has no machine path unless one was typed."""
    write("d/a.md")
    assert found(typed) == [key]


def test_absolute_paths_stay_absolute(write: Write, folder: Path) -> None:
    """Who types an absolute path gets absolute keys."""
    write("d/a.md")
    assert found(str(folder / "d")) == [(folder / "d/a.md").as_posix()]


def test_hidden_entries_are_left_out_unless_named(write: Write) -> None:
    """`.git`, `.venv`, `.env` are not the user's texts; a name that was typed is."""
    for path in ("d/a.md", "d/.env", "d/.git/config", "d/.cache/x.md"):
        write(path)
    assert found("d") == ["d/a.md"]
    assert {reason for _, reason in skipped("d")} == {"hidden"}
    assert found("d/.env", "d/.cache") == ["d/.env", "d/.cache/x.md"]


def test_gitignore_is_honoured_at_every_level(write: Write) -> None:
    """Rules of the folder, of those below and of those above up to the repository's top; the deepest decides."""
    write("repo/.git/HEAD")
    write("repo/.git/info/exclude", "excluded.md\n")
    write("repo/.gitignore", "*.log\n/build/\n# comment\n!important.log\ntmp*\n")
    write("repo/docs/.gitignore", "draft-*\n!tmp.md\n/only-here.md\n")
    for name in ("a.md", "x.log", "important.log", "build/out.md", "excluded.md", "tmp.md"):
        write(f"repo/{name}")
    for name in (
        "a.md",
        "draft-1.md",
        "tmp.md",
        "build/kept.md",
        "only-here.md",
        "deep/only-here.md",
        "y.log",
    ):
        write(f"repo/docs/{name}")
    below = ["a.md", "build/kept.md", "deep/only-here.md", "tmp.md"]
    assert found("repo") == ["repo/a.md", *(f"repo/docs/{name}" for name in below), "repo/important.log"]
    assert found("repo/docs") == [f"repo/docs/{name}" for name in below]
    assert ("repo/build", "ignored by .gitignore") in skipped("repo")


def test_rules_above_the_repository_do_not_count(write: Write) -> None:
    """A `.gitignore` outside of the repository, or above a folder that is in none, is not git's either."""
    write(".gitignore", "*.md\n")
    write("repo/.git/HEAD")
    write("repo/a.md")
    write("plain/.gitignore", "b.md\n")
    write("plain/a.md")
    write("plain/b.md")
    assert found("repo") == ["repo/a.md"]
    assert found("plain") == ["plain/a.md"]


def test_what_is_named_is_read_though_it_is_ignored(write: Write) -> None:
    """An ignored folder, file or pattern that the user typed is wanted: outputs are often ignored."""
    write(".git/HEAD")
    write(".gitignore", "out/\n*.jsonl\n")
    write("out/a.md")
    write("out/deep/b.md")
    write("data.jsonl", '{"text": "x"}')
    assert found("out") == ["out/a.md", "out/deep/b.md"]
    assert found("out/deep") == ["out/deep/b.md"]
    assert found("data.jsonl") == found("*.jsonl") == ["data.jsonl"]


def test_a_broken_rule_is_passed_over(write: Write) -> None:
    """A line that git cannot use does not stop the others, nor do bytes that are no text."""
    write("d/.gitignore", b"[\n\xff\xfe\n!\n*.log\n")
    write("d/a.md")
    write("d/b.log")
    assert found("d") == ["d/a.md"]


def test_links_cannot_make_a_loop(write: Write, folder: Path) -> None:
    """A link to a folder is not followed but reported; one that was typed is."""
    write("d/a.md")
    (folder / "d/loop").symlink_to(folder / "d")
    (folder / "d/self").symlink_to("self")
    (folder / "top").symlink_to("d")
    assert found("d") == ["d/a.md", "d/self"]
    assert ("d/loop", "link to a folder") in skipped("d")
    assert found("top") == ["top/a.md", "top/self"]


def test_no_file_is_read_twice(write: Write, folder: Path) -> None:
    """A file behind several arguments or links is read once and the others are reported; hard links are files."""
    write("d/a.md")
    write("d/b.md")
    (folder / "d/link.md").symlink_to("b.md")
    os.link(folder / "d/a.md", folder / "d/hard.md")
    assert found("d/b.md", "d", "**/*.md") == ["d/b.md", "d/a.md", "d/hard.md"]
    assert ("d/link.md", "listed twice") in skipped("d/b.md", "d")


def test_a_dangling_link_is_reported_and_the_others_go_on(write: Write, folder: Path, errors: Errors) -> None:
    """What cannot be looked at in a folder is a bad item under its key."""
    write("d/a.md")
    (folder / "d/gone.md").symlink_to("nowhere")
    bad = errors("d")
    assert set(bad) == {"d/gone.md"}
    assert bad["d/gone.md"][0] == errors("d/*")["d/gone.md"][0] == "SourceUnreadableError"
    with pytest.raises(SourceUnreadableError, match=r"gone\.md"):
        open_sources(["d/gone.md"])


def test_a_folder_that_cannot_be_listed_is_reported(write: Write, folder: Path, errors: Errors) -> None:
    """A folder whose path is longer than the system takes is a bad item, and the others go on."""
    write("d/a.md")
    place = os.open(folder / "d", os.O_RDONLY)
    for _ in range(20):
        os.mkdir("x" * 250, dir_fd=place)  # only this call takes a place to start from
        inner = os.open("x" * 250, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(place)
    ((key, (name, message)),) = errors("d").items()
    assert key.startswith("d/xxx")
    assert name == "SourceUnreadableError"
    assert "Cannot list the folder" in message


def test_what_is_no_file_is_skipped_in_a_folder_and_refused_by_name(write: Write, folder: Path) -> None:
    """Pipes and sockets would block or fail."""
    write("d/a.md")
    os.mkfifo(folder / "d/pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("d/socket")
        assert skipped("d") == {("d/pipe", "not a regular file"), ("d/socket", "not a regular file")}
        assert skipped("d/*") == {("d/pipe", "not a regular file"), ("d/socket", "not a regular file")}
    with pytest.raises(SourceUnreadableError, match="neither a file nor a folder") as caught:
        open_sources(["d/pipe"])
    assert "`-`" in caught.value.hint


def test_names_that_are_no_text_get_keys_that_are(write: Write, folder: Path, items: Items) -> None:
    """Bytes that are no UTF-8 are escaped, two names stay two, and the key is the same each time."""
    try:
        for name in (b"caf\xe9.txt", b"caf\xe8.txt", b"new\nline.txt"):
            Path(os.fsdecode(os.path.join(os.fsencode(folder), name))).write_text("x")  # noqa: PTH118  # bytes
    except OSError:
        pytest.skip("this file system takes only names that are UTF-8")
    assert set(items(".")) == {"caf\\xe9.txt", "caf\\xe8.txt", "new\nline.txt"}
    assert set(items("*.txt")) == set(items("."))


def test_patterns_match_what_a_shell_would(write: Write) -> None:
    """`*` within a name, `**` over folders, `[…]`; folders that match are walked; hidden names need a dot."""
    for path in ("a1.md", "a2.md", "b.md", ".h.md", "d/c.md", "d/e/f.md", "d/e/g.txt"):
        write(path)
    assert found("*.md") == ["a1.md", "a2.md", "b.md"]
    assert found("a[12].md", "?.md") == ["a1.md", "a2.md", "b.md"]
    assert found("**/*.md") == ["a1.md", "a2.md", "b.md", "d/c.md", "d/e/f.md"]
    assert found("d/*") == ["d/c.md", "d/e/f.md", "d/e/g.txt"]
    assert found(".*.md") == [".h.md"]


def test_a_name_that_looks_like_a_pattern_is_a_name(write: Write) -> None:
    """A file that exists is meant as it is typed."""
    write("a[1].md")
    write("a1.md")
    assert found("a[1].md") == ["a[1].md"]


@pytest.mark.parametrize("missing", ["nowhere", "d/nowhere.md", "*.nothing", "d/**/*.nothing", ""])
def test_what_does_not_exist_is_an_error_at_once(write: Write, missing: str) -> None:
    """A typing error is told before a model is loaded, and by name."""
    write("d/a.md")
    with pytest.raises(SourceNotFoundError) as caught:
        open_sources(["d", missing])
    assert repr(missing) in str(caught.value)


@pytest.mark.parametrize("paths", [[], ["-", "-"]], ids=repr)
def test_arguments_that_make_no_sense_are_refused(folder: Path, paths: list[str]) -> None:
    """No input at all, or the same pipe twice."""
    with pytest.raises(UsageError):
        open_sources(paths)


def test_skips_are_counted_in_full_and_kept_in_part(write: Write) -> None:
    """The detail is bounded, the count by reason is not."""
    for n in range(1_010):
        write(f"d/.h{n}")
    write("d/empty.md", "")
    write("d/a.md")
    sources = open_sources(["d"])
    list(sources)
    assert sources.skipped_counts == {"hidden": 1_010, "empty": 1}
    assert len(sources.skipped) == 1_000
    assert isinstance(sources.skipped[0], Skip)


def test_the_signature_changes_when_the_inputs_do(write: Write, folder: Path) -> None:
    """Content's size or time, another file, another column: a resumed run can tell. Reading changes nothing."""
    write("d/a.jsonl", '{"text": "x", "other": "y"}')
    sources = open_sources(["d"])
    first = sources.signature()
    list(sources)
    assert first == sources.signature() == open_sources(["d"]).signature()
    assert len(first or "") == 64
    others = {
        open_sources(["d"], text_column="other").signature(),
        open_sources(["d"], id_column="other").signature(),
    }
    os.utime(folder / "d/a.jsonl", ns=(1, 1))
    others.add(open_sources(["d"]).signature())
    write("d/b.md")
    others.add(open_sources(["d"]).signature())
    assert len(others | {first}) == 5


def test_progress_ends_at_the_total(write: Write) -> None:
    """Bytes done grow to the size of all files, whatever their kind, on each iteration."""
    write("d/a.md", "x" * 1000)
    write("d/b.jsonl", '{"text": "x"}\n' * 100)
    write("d/empty.md", "")
    write("d/binary.png", b"\x89PNG" * 10)
    sources = open_sources(["d"])
    assert sources.bytes_total == 1000 + 1400 + 40
    for _ in range(2):
        seen = [sources.bytes_done for _ in sources]
        assert seen == sorted(seen)
        assert 0 < seen[0] <= seen[-1] <= sources.bytes_total
        assert sources.bytes_done == sources.bytes_total
