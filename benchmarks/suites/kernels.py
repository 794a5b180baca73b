"""The matrix-product ceiling of this machine, in each precision that its processor computes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks import markdown, results
from benchmarks.kernels import HEIGHTS, MINILM, PRECISIONS, Ceiling, can_compute
from benchmarks.stats import spread
from benchmarks.workers.protocol import versions

if TYPE_CHECKING:
    from benchmarks.harness import Settings


def run(settings: Settings) -> dict[str, Any]:
    """GFLOP/s of the default model's own matrix products, by height of the batch, round by round."""
    ceilings = {name: Ceiling(name) for name in PRECISIONS if can_compute(name)}
    rounds = [{name: one.measure() for name, one in ceilings.items()} for _ in range(settings.rounds)]
    return results.record(
        "kernels",
        parameters={
            "rounds": settings.rounds,
            "layers": MINILM.layers,
            "hidden": MINILM.hidden,
            "inner": MINILM.inner,
            "heights": HEIGHTS,
        },
        rounds=rounds,
        summary={
            name: {height: spread([one[name][height] for one in rounds]) for height in rounds[0][name]}
            for name in ceilings
        },
        versions={"embatch": versions(["openvino"])},
        problems={
            name: "the processor does not compute in it" for name in PRECISIONS if name not in ceilings
        },
    )


def tables(result: dict[str, Any]) -> dict[str, str]:
    """`kernels`: GFLOP/s by precision and height."""
    heights = [str(height) for height in result["parameters"]["heights"]]
    rows = [
        [name, *(markdown.number(one[height]["median"]) for height in [*heights, "best"])]
        for name, one in result["summary"].items()
    ]
    head = ["GFLOP/s of the model's matrix products", *(f"{height} rows" for height in heights), "best"]
    return {"kernels": f"{markdown.table(head, rows)}\n\n{markdown.footnote(result)}"}
