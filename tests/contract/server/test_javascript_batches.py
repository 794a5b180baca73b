"""Files and batches by OpenAI's own JavaScript client, unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.contract.server.node import MARKS, found_by

if TYPE_CHECKING:
    from tests.contract.server.conftest import Serving

pytestmark = MARKS


@pytest.fixture(scope="module")
def found(serving: Serving) -> Any:
    """What the client saw, all of it in one run of node."""
    with serving() as server:
        return found_by("openai_batches.mjs", server, "no-key")


def test_a_batch(found: Any) -> None:
    """A file goes up, its batch runs, and the outputs come down row by row."""
    batch = found["batch"]
    assert found["file"]["purpose"] == "batch"
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 30, "completed": 29, "failed": 1}
    assert [row["custom_id"] for row in found["output"]] == [f"row {n}" for n in range(30) if n != 7]
    assert [row["custom_id"] for row in found["errors"]] == ["row 7"]
    vectors = np.array([row["response"]["body"]["data"][0]["embedding"] for row in found["output"]])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_lists_and_refusals(found: Any) -> None:
    """Lists end, a batch that has ended is not cancelled, and a deleted file is gone: each as the client knows it."""
    assert found["listed"] == [found["batch"]["id"]]
    assert found["refused"] == {"kind": "ConflictError", "status": 409}
    assert found["deleted"]["deleted"]
    assert found["gone"] == {"kind": "NotFoundError", "status": 404}
