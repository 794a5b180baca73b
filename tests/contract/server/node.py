"""OpenAI's own JavaScript client, unchanged: what its tests need, and a run of it.

It is looked for in the folder that EMBATCH_NODE_MODULES (in the environment) names, and in `tests/node/node_modules`
(`npm install` there).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from embatch.frontends.server.transport.running import BackgroundServer

SCRIPTS = Path(__file__).parents[2] / "node"
MODULES = Path(os.environ.get("EMBATCH_NODE_MODULES") or SCRIPTS / "node_modules")
NODE = shutil.which("node")

MARKS = [
    pytest.mark.serve,
    pytest.mark.remote,
    pytest.mark.skipif(
        NODE is None or not (MODULES / "openai").is_dir(),
        reason="needs node and its package openai; see tests/node/package.json",
    ),
]


def found_by(script: str, server: BackgroundServer, key: str) -> Any:
    """What a script of `tests/node` saw of the server, all of it in one run of node."""
    assert NODE is not None
    run = subprocess.run(
        [NODE, SCRIPTS / script, f"{server.url}/v1", key, MODULES],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)
