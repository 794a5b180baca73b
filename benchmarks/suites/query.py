"""One warm query of 12 tokens, in process: what a search box waits for before it searches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks import cranfield, markdown, results
from benchmarks.harness import Stage, turns
from benchmarks.stats import percentile, significant, spread
from benchmarks.suites.throughput import token_lengths
from benchmarks.systems import embatch, peers

if TYPE_CHECKING:
    from benchmarks.harness import Settings

TOKENS = 12
QUERIES = 100
_WARM = 20


def run(settings: Settings) -> dict[str, Any]:
    """Each system answers the same queries, round by round, one query after the other."""
    queries = queries_of(settings, settings.scaled(QUERIES, 10))
    with Stage([embatch("auto"), embatch("fp32"), *peers(settings.model)], settings.work) as stage:
        for system in stage.names:
            stage.attempt(system, lambda one: stage.ask(one, "query", texts=queries[:_WARM]))
        took: dict[str, list[list[float]]] = {}

        def answer(system: str) -> None:
            took.setdefault(system, []).append(stage.ask(system, "query", texts=queries)["ms"])

        for _, _, system in turns(list(stage.names), ["queries"], settings.rounds):
            stage.attempt(system, answer)
        return results.record(
            "query",
            parameters={"rounds": settings.rounds, "queries": len(queries), "tokens": TOKENS},
            rounds={
                name: [[significant(ms) for ms in one] for one in rounds] for name, rounds in took.items()
            },
            summary={name: summarise(rounds) for name, rounds in took.items() if name in stage.names},
            versions=stage.versions,
            problems=stage.problems,
        )


def queries_of(settings: Settings, count: int) -> list[str]:
    """Cranfield's questions cut to exactly 12 tokens each, special tokens included, all different."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(settings.model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(TOKENS)
    questions = cranfield.load().queries
    cut = {tokenizer.decode(tokenizer.encode(question).ids): None for question in questions}
    lengths = token_lengths(settings.model, list(cut))
    return [text for text, tokens in zip(cut, lengths, strict=True) if tokens == TOKENS][:count]


def summarise(rounds: list[list[float]]) -> dict[str, Any]:
    """Median and 99th percentile over all rounds, and the medians' spread between rounds."""
    every = [ms for one in rounds for ms in one]
    return {
        "p50_ms": significant(percentile(every, 0.5)),
        "p99_ms": significant(percentile(every, 0.99)),
        "p50_by_round_ms": spread([percentile(one, 0.5) for one in rounds]),
    }


def tables(result: dict[str, Any]) -> dict[str, str]:
    """`query`: p50 and p99 by system."""
    rows = [
        [name, markdown.number(one["p50_ms"]), markdown.number(one["p99_ms"])]
        for name, one in result["summary"].items()
    ]
    head = [f"one query of {result['parameters']['tokens']} tokens", "p50, ms", "p99, ms"]
    return {"query": f"{markdown.table(head, rows)}\n\n{markdown.footnote(result)}"}
