"""A forecast counts what the run then does."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.doubles import FakeBackend

from embatch.decisions.planning import Budget
from embatch.decisions.tuning import BudgetTuner
from embatch.engine.forecast import forecast
from embatch.engine.pipeline import Pipeline
from embatch.engine.tuners import SharedTuner
from embatch.engine.window import as_items


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.integers(0, 90).map(lambda n: " ".join(["w"] * n)), max_size=400),
    overlong=st.sampled_from(["truncate", "pool", "error"]),
)
def test_the_run_does_what_was_forecast(texts: list[str], overlong: str) -> None:
    """Rows, failures, repeats, truncations, tokens, padding and batches agree with a run under the same budget."""
    backend = FakeBackend()
    spec = replace(backend.spec, overlong=overlong)  # type: ignore[arg-type]  # sampled from what is allowed
    expected = forecast(backend, spec, Budget(tokens=200), as_items(texts))
    pipeline = Pipeline(backend, spec, SharedTuner(BudgetTuner(low=1, high=1000, first=200, fixed=200)))
    for _ in pipeline.run(as_items(texts)):
        pass
    report = pipeline.report
    assert expected.rows == report.items
    assert expected.failed == report.failed
    assert expected.duplicates == report.duplicates
    assert (expected.truncated, expected.pooled) == (report.truncated, report.pooled)
    assert (expected.tokens, expected.padded_tokens) == (report.tokens, report.padded_tokens)
    assert expected.batches == report.batches
