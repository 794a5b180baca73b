"""What the command line sets for its own process when it opens a model."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from embatch.engine import allocator
from embatch.frontends.cli.embed import open_embedder


@pytest.mark.parametrize("openvino", [True, False])
def test_large_blocks_are_kept_apart_only_where_openvino_computes(
    monkeypatch: pytest.MonkeyPatch, openvino: bool
) -> None:
    """Hashing, whose arrays come and go with every slice, would be slower."""
    told: list[bool] = []
    monkeypatch.setattr(allocator, "keep_large_blocks_apart", lambda: told.append(True))
    if openvino:
        monkeypatch.setitem(sys.modules, "openvino", sys.modules.get("openvino", ModuleType("openvino")))
    else:
        monkeypatch.delitem(sys.modules, "openvino", raising=False)
    open_embedder(quiet=True, calibrate=None, model="hashing", precision="auto").close()
    assert told == [True] * openvino
