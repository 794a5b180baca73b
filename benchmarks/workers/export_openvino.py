"""Writes the model as sentence-transformers' OpenVINO export, once, as its documentation recommends.

Run by the interpreter of that environment: `python -m benchmarks.workers.export_openvino MODEL TARGET`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from sentence_transformers import SentenceTransformer

if __name__ == "__main__":
    source, target = Path(sys.argv[1]), Path(sys.argv[2]) / "st-openvino"
    if not target.exists():
        partial = target.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        model = SentenceTransformer(str(source), device="cpu", backend="openvino")
        model.save_pretrained(str(partial))
        partial.rename(target)
