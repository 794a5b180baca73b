"""Imports go down: each folder is a room with one purpose, and the pure rooms stay pure."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import embatch

PACKAGE = Path(embatch.__file__).parent

# Room -> rooms of ours that it may import. The modules of nouns and `errors` are open to all.
ALLOWED = {
    "decisions": {"decisions"},
    "backends": {"backends", "decisions"},
    "providers": {"providers", "decisions"},
    "emulator": {"emulator"},
    "storage": {"storage", "decisions"},
    "engine": {"engine", "decisions"},
    "search": {"search", "storage", "decisions"},
    "frontends": {
        "frontends",
        "search",
        "engine",
        "storage",
        "backends",
        "providers",
        "emulator",
        "decisions",
    },
}
IMPURE = {
    "asyncio",
    "time",
    "random",
    "os",
    "sqlite3",
    "threading",
    "subprocess",
    "socket",
    "pathlib",
    "psutil",
}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at any depth of the file, type-checking blocks included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


FILES = sorted(path for room in ALLOWED for path in (PACKAGE / room).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    """A file imports only rooms below its own, and pure files nothing that touches the world."""
    room = path.relative_to(PACKAGE).parts[0]
    modules = imported(path)
    rooms = {m.split(".")[1] for m in modules if m.startswith("embatch.")} - {
        "types",
        "chunks",
        "remote",
        "serving",
        "seen",
        "seen_lanes",
        "events",
        "errors",
        "_version",
    }
    assert rooms <= ALLOWED[room], f"{room} imports {sorted(rooms - ALLOWED[room])}"
    if room == "emulator":  # the providers' side of the wire must not know ours
        assert not {m for m in modules if m.startswith("embatch.") and not m.startswith("embatch.emulator")}
    if room == "decisions":
        assert not {m.split(".")[0] for m in modules} & IMPURE


def test_types_and_errors_import_nothing_of_the_rooms() -> None:
    """The shared words stand below everything."""
    for name in ("types.py", "chunks.py", "remote.py", "events.py", "errors.py", "_version.py"):
        ours = {m for m in imported(PACKAGE / name) if m.startswith("embatch")}
        assert ours <= {"embatch.types", "embatch.remote", "embatch.errors"}
