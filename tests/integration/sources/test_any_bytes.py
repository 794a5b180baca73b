"""Whatever bytes a file holds, it ends as items, named errors or a skip."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embatch.errors import EmbatchError
from embatch.storage.sources import open_sources
from embatch.types import BadItem

PARTS = [
    b'{"text": "a", "id": 1}',
    b'"x"',
    b"\n",
    b"\r\n",
    b",",
    b"[",
    b"]",
    b"id,text\n",
    b'"',
    b"\0",
    b"\xff",
    b"<p>",
]
CONTENT = st.lists(st.one_of(st.sampled_from(PARTS), st.binary(max_size=6)), max_size=30).map(b"".join)
ENDINGS = ["txt", "html", "jsonl", "json", "csv", "tsv", "parquet", "png", "txt.gz", "jsonl.gz"]


@pytest.mark.parametrize("ending", ENDINGS)
@settings(max_examples=60, deadline=None)
@given(content=CONTENT, mark=st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\xff\xfe\0\0", b"PAR1"]))
def test_any_bytes_end_well(ending: str, content: bytes, mark: bytes) -> None:
    """Nothing but our own errors, keys that can be written, the same rows each time."""
    with tempfile.TemporaryDirectory() as folder:
        content = mark + content
        Path(folder, f"a.{ending}").write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
        try:
            alone = list(open_sources([f"{folder}/a.{ending}"]))
        except EmbatchError as error:
            alone = [BadItem("", error)]
        assert all(row.key.encode() is not None for row in alone)
        sources = open_sources([folder])
        first, second = list(sources), list(sources)
        assert [row.key for row in first] == [row.key for row in second]
        assert all(isinstance(row.error, EmbatchError) for row in first if isinstance(row, BadItem))
        assert bool(first) != bool(sources.skipped)
        assert sources.bytes_done == sources.bytes_total
