"""The throughput suite on a GPU: embatch and sentence-transformers in the same half precision, on one card.

Both run in the harness's own environment, whose PyTorch must see the card. Without one, nothing is recorded.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from benchmarks.kernels import MINILM
from benchmarks.suites import throughput
from benchmarks.systems import OWN, YARDSTICK, System, embatch

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.harness import Settings

PRECISION = "fp16"
SIZES = {"short": 60_000, "mixed": 20_000, "long": 6_000, "repeats": 20_000}
QUICK = {"short": 2000, "mixed": 600, "long": 200, "repeats": 600}
_HEIGHTS = (16_384, 65_536)
_SECONDS = 0.5
_FIND = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"


def run(settings: Settings) -> dict[str, Any] | None:
    """The rounds of both systems, or None where there is no GPU."""
    card = find_card()
    if card is None:
        print("  no GPU here: nothing is measured or recorded", flush=True)
        return None
    result = throughput.measure(
        "gpu",
        settings,
        systems=systems(settings.model),
        sizes=QUICK if settings.quick else SIZES,
        ceilings={PRECISION: CardCeiling()},
    )
    return {**result, "machine": {**result["machine"], "gpu": card}}


def find_card() -> str | None:
    """The name of the first card that PyTorch sees; looked for in a process of its own, since PyTorch is heavy."""
    done = subprocess.run([sys.executable, "-c", _FIND], check=False, capture_output=True, text=True)
    return done.stdout.strip() or None


def systems(model: Path) -> list[System]:
    """Both systems, in the same half precision on the same card."""
    half = System(
        name=YARDSTICK,
        environment=OWN,
        worker="sentence_transformers",
        options={"model": str(model), "device": "cuda", "dtype": "float16"},
        setting="PyTorch on the card, fp16, batch 32: its defaults",
    )
    return [embatch(PRECISION, backend="torch", device="cuda"), half]


class CardCeiling:
    """Matrix products of the default model's shapes on the card, in half precision."""

    def measure(self) -> dict[str, float]:
        """GFLOP/s by height, and the `best` of them."""
        rates = {str(height): self._rate(height) for height in _HEIGHTS}
        return {**rates, "best": max(rates.values())}

    @staticmethod
    def _rate(height: int) -> float:
        import torch

        hidden, inner = MINILM.hidden, MINILM.inner
        sizes = [(hidden, hidden)] * 4 + [(hidden, inner), (inner, hidden)]
        weights = [
            torch.randn(size, device="cuda", dtype=torch.float16) * 0.02 for size in sizes * MINILM.layers
        ]
        rows = torch.randn(height, hidden, device="cuda", dtype=torch.float16)

        def once() -> None:
            out = rows
            for weight in weights:
                out = out @ weight
            torch.cuda.synchronize()

        once()
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < _SECONDS:
            once()
            done += 1
        operations = 2 * height * sum(wide * high for wide, high in sizes) * MINILM.layers * done
        return round(operations / (time.perf_counter() - started) / 1e9, 1)


def tables(result: dict[str, Any]) -> dict[str, str]:
    """The throughput suite's tables, named `gpu` and `gpu-…`."""
    names = {"throughput": "gpu"}
    found = throughput.tables(result)
    return {names.get(name, f"gpu-{name}"): text for name, text in found.items()}
