"""A code base as chunks: every file that somebody wrote, cut within a model's limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from embatch.errors import SourceNotFoundError, UnknownModelError, UsageError
from embatch.frontends.processor.code_chunks import MAX_TOKENS, estimated, load_code_chunks, measure_of
from embatch.storage.sources.skips import SkipLog

if TYPE_CHECKING:
    from pathlib import Path

CODE = "import os\n\n\ndef first():\n    return os.name\n\n\ndef second(text):\n    return text.upper()\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small code base."""
    top = tmp_path / "project"
    (top / "src").mkdir(parents=True)
    (top / "src" / "main.py").write_text(CODE)
    (top / "README.md").write_text("# Title\n\nSome words.\n")
    (top / ".gitignore").write_text("built/\n")
    (top / "built").mkdir()
    (top / "built" / "out.py").write_text(CODE)
    (top / "picture.png").write_bytes(b"\x89PNG\0\0")
    return top


@pytest.mark.search
def test_a_folder(folder: Path) -> None:
    """Files in order of their names, paths relative to the folder, what is ignored or binary counted."""
    skips = SkipLog()
    chunks = load_code_chunks(folder, model="hashing", skips=skips)
    assert list(dict.fromkeys(chunk.path for chunk in chunks)) == ["README.md", "src/main.py"]
    assert {chunk.language for chunk in chunks} == {"markdown", "python"}
    code = "".join(chunk.text for chunk in chunks if chunk.path == "src/main.py")
    assert code.split() == CODE.split()
    assert skips.counts["ignored by .gitignore"] == 1
    assert skips.counts["binary"] == 1


@pytest.mark.search
def test_a_single_file(folder: Path) -> None:
    """A file is a code base of its own."""
    assert {chunk.path for chunk in load_code_chunks(folder / "src" / "main.py", model="hashing")} == {
        "main.py"
    }


@pytest.mark.search
def test_limits(folder: Path) -> None:
    """No chunk has more tokens than allowed, and smaller limits make more chunks."""
    (folder / "long.py").write_text("\n\n".join(f"def f{i}(a):\n    return a + {i}\n" for i in range(60)))
    few = load_code_chunks(str(folder), model="hashing")
    many = load_code_chunks(str(folder), model="hashing", max_tokens=40)
    assert max(estimated([chunk.embedded for chunk in few])) <= MAX_TOKENS
    assert max(estimated([chunk.embedded for chunk in many])) <= 40
    assert len(many) > len(few)


def test_nothing_there(tmp_path: Path) -> None:
    """A path that does not exist is an error; an empty folder is no chunks."""
    with pytest.raises(SourceNotFoundError):
        load_code_chunks(tmp_path / "nowhere", model="hashing")
    assert load_code_chunks(tmp_path, model="hashing") == []


def test_options_that_make_no_sense(tmp_path: Path) -> None:
    """Unknown models and impossible limits are refused by name."""
    with pytest.raises(UnknownModelError):
        load_code_chunks(tmp_path, model="no such model")
    for tokens in (0, 2):
        with pytest.raises(UsageError):
            load_code_chunks(tmp_path, model="hashing", max_tokens=tokens)


def test_a_provider_s_model() -> None:
    """Its limit is that of a place to find, not that of a whole file; what it takes is never exceeded."""
    assert measure_of("openai:text-embedding-3-small", None)[0] == 512
    assert measure_of("openai:text-embedding-3-small", 10_000_000)[0] == 8192


@pytest.mark.model
def test_the_default_model_s_own_tokens() -> None:
    """With the model's files at hand its tokeniser counts; the estimate for machines without them is above that."""
    texts = [
        CODE,
        "def snake_case_name(HTTPServer, x1): return {'a': [1, 22, 333]}  # \u00fcber \u6f22\u5b57",
    ]
    most, count = measure_of("minilm", None)
    assert most == 256
    assert all(ours >= theirs for ours, theirs in zip(estimated(texts), count(texts), strict=True))
