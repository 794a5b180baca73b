"""Lets a script run from a checkout with any Python 3, in the checkout's own virtual environment if needed."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent.parent
_NEEDED = ("click", "filelock", "numpy", "openvino", "psutil", "pyarrow", "rich", "tokenizers")
_RESTARTED = "EMBATCH_SCRIPT_RESTARTED"


def prepare() -> None:
    """Make `import embatch` mean the checkout; go on in its `.venv` where this Python lacks what embatch needs."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if not missing and sys.version_info >= (3, 11):
        sys.path.insert(0, str(CHECKOUT / "src"))
        return
    for python in (CHECKOUT / ".venv" / "bin" / "python", CHECKOUT / ".venv" / "Scripts" / "python.exe"):
        if python.exists() and _RESTARTED not in os.environ:
            os.environ[_RESTARTED] = "1"
            sys.stdout.flush()
            os.execv(python, [str(python), *sys.argv])  # noqa: S606  # our own script, in our own environment
    lacking = ", ".join(missing) or "Python 3.11 or newer"
    sys.stderr.write(
        f"Error: {sys.executable} lacks {lacking}, and there is no usable environment in {CHECKOUT / '.venv'}\n"
        f"  → Make one: cd {CHECKOUT} && python3 -m venv .venv && .venv/bin/python -m pip install -e .\n"
    )
    raise SystemExit(1)


def tasks(command: str) -> None:
    """Run `embatch tasks COMMAND` with this process's arguments, and exit with its code."""
    prepare()
    os.environ.pop(_RESTARTED, None)
    sys.argv = [sys.argv[0], "tasks", command, *sys.argv[1:]]
    from embatch.frontends.cli import script

    script()
