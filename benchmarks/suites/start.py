"""What a newcomer waits for: importing embatch, and a cold `embatch embed` over one small file, model files cached."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from benchmarks import machine, markdown, results, texts
from benchmarks.stats import spread
from benchmarks.suites.memory import embed_file
from benchmarks.workers.protocol import versions

if TYPE_CHECKING:
    from benchmarks.harness import Settings

IMPORTS = 15
RUNS = 7
TEXTS = 20
_IMPORT = "import time; start = time.perf_counter(); import embatch; print(time.perf_counter() - start)"


def run(settings: Settings) -> dict[str, Any]:
    """Fresh processes, one after the other; the first of each kind warms the file cache and is not counted."""
    source = settings.work / "small.txt"
    source.write_text("\n\n".join(texts.mixed(TEXTS)), "utf-8")
    target = settings.work / "small.parquet"
    imports = [_import_s() for _ in range(settings.scaled(IMPORTS, 3) + 1)][1:]
    python = [_python_s() for _ in range(settings.scaled(IMPORTS, 3) + 1)][1:]
    cold = [
        float(embed_file(source, target, "minilm")["seconds"]) for _ in range(settings.scaled(RUNS, 2) + 1)
    ][1:]
    rounds = {
        "python itself": python,
        "import embatch": imports,
        "embatch embed, one small file": cold,
    }
    return results.record(
        "start",
        parameters={
            "imports": len(imports),
            "runs": len(cold),
            "file_bytes": source.stat().st_size,
            "load": machine.load(),
        },
        rounds=rounds,
        summary={what: spread(took) for what, took in rounds.items()},
        versions={"embatch": versions(["embatch", "openvino", "tokenizers", "numpy", "pyarrow"])},
    )


def _import_s() -> float:
    """Seconds of the import alone, as a fresh interpreter measures it."""
    done = subprocess.run([sys.executable, "-c", _IMPORT], check=True, capture_output=True, text=True)
    return float(done.stdout)


def _python_s() -> float:
    """Seconds that an interpreter needs to start and end: part of every command's time."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - started


def tables(result: dict[str, Any]) -> dict[str, str]:
    """`start`: seconds of each, median and best."""
    rows = [[what, f"{one['median']:.3f}", f"{one['low']:.3f}"] for what, one in result["summary"].items()]
    table = markdown.table(["seconds, fresh process", "median", "best"], rows)
    return {"start": f"{table}\n\n{markdown.footnote(result)}"}
