"""The main job on real input: embed documents into a file, then find the nearest ones to three questions.

Run it with `make demo`. It calls the command line as a user would, then reads the file that came out.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from embatch import Embedder
from embatch.frontends.cli import main as embatch

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ROOT / "examples" / "data" / "cranfield" / "docs.jsonl"
OUTPUT = ROOT / "out" / "demo" / "vectors.parquet"
QUESTIONS = [
    "how does heat transfer to a blunt body at hypersonic speed",
    "what happens to a wing in the slipstream of a propeller",
    "what happens to a batch that does not fit into memory",
]


def main() -> int:
    """Embed, then ask.

    Returns:
        The exit code of `embatch embed`, 0 if all went well.
    """
    sources = [
        str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
        for path in (DOCUMENTS, ROOT / "docs", ROOT / "README.md")
    ]
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    print(f"$ embatch embed {' '.join(sources)} --to {OUTPUT.relative_to(ROOT)} --with-text", flush=True)
    code = embatch(["embed", *sources, "--to", str(OUTPUT), "--with-text"])
    if code > 1:  # 1: done, but for rows that have no text (Cranfield has two)
        return code

    table = pq.read_table(OUTPUT)
    vectors = np.stack(table["vector"].to_numpy(zero_copy_only=False))
    keys, texts = table["key"].to_pylist(), table["text"].to_pylist()
    titles = {str(row["id"]): row["title"] for row in map(json.loads, DOCUMENTS.open(encoding="utf-8"))}
    with Embedder() as embedder:
        for question in QUESTIONS:
            started = time.perf_counter()
            scores = vectors @ embedder.embed_query(question)
            best = np.argsort(-scores)[:3]
            milliseconds = 1000 * (time.perf_counter() - started)
            print(f"\n{question}?   ({milliseconds:.1f} ms)")
            for row in best:
                key = keys[row]
                shown = titles.get(key.split("#")[0]) or " ".join(texts[row].split())
                print(f"  {scores[row]:.2f}  {key:<18} {shown[:52]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
