"""The OpenVINO backend on a tiny random BERT that is made without PyTorch."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import openvino
import psutil
import pytest

from embatch.backends.layout import read_layout
from embatch.backends.openvino import OpenVINOBackend, requests
from embatch.backends.openvino.graphs import build_model, without_blank_keys
from embatch.errors import BackendClosedError, UsageError
from embatch.types import Backend, CostRule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from embatch.backends.resolve import ModelFiles

    MakeModel = Callable[..., ModelFiles]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def backend(plain_model: MakeModel) -> Iterator[OpenVINOBackend]:
    """In fp32 on two streams."""
    backend = OpenVINOBackend(plain_model(), precision="fp32", streams=2)
    yield backend
    backend.close()


def test_it_is_a_backend_that_says_what_it_is(backend: OpenVINOBackend) -> None:
    """Spec, limits, streams and device are what the folder and the arguments say."""
    assert isinstance(backend, Backend)
    spec = backend.spec
    assert (spec.model, spec.revision, spec.dimensions, spec.max_tokens) == ("tiny", "0" * 16, 32, 48)
    assert (spec.pooling, spec.normalize, spec.precision, spec.prompt) == ("mean", True, "fp32", "")
    assert (backend.limits.cost, backend.limits.first_budget, backend.streams) == (CostRule.PADDED, 1024, 2)
    assert backend.device.startswith("cpu ")
    assert backend.device.endswith(", 2 streams x 1 thread")
    assert (backend.memory_used(), backend.prompts) == (0.0, {})


def test_vectors_come_in_order_and_of_unit_length(backend: OpenVINOBackend, texts: list[str]) -> None:
    """Any order of a batch gives the same vectors in that order."""
    payloads = list(backend.tokenize(texts).payloads)
    vectors = backend.embed(payloads)
    assert vectors.shape == (len(texts), 32)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(backend.embed(payloads[::-1])[::-1], vectors, atol=1e-5)
    for row, payload in enumerate(payloads):
        np.testing.assert_allclose(backend.embed([payload])[0], vectors[row], atol=1e-5)


def test_an_empty_batch_has_no_rows(backend: OpenVINOBackend) -> None:
    """No payloads: `(0, dim)`."""
    assert backend.embed([]).shape == (0, 32)


def test_a_text_without_tokens_has_a_finite_vector(backend: OpenVINOBackend) -> None:
    """A payload of no tokens at all, alone or beside others, is a vector of zeros."""
    nothing = np.empty(0, dtype=np.int32)
    payloads = [nothing, *backend.tokenize(["the flow"]).payloads]
    assert not backend.embed([nothing]).any()
    vectors = backend.embed(payloads)
    assert np.isfinite(vectors).all()
    assert not vectors[0].any()


@pytest.mark.parametrize("positions", [48, 50, 51])
def test_no_padding_beyond_the_last_position(
    plain_model: MakeModel, texts: list[str], positions: int
) -> None:
    """Batches are rounded to whole tiles only as far as the model has positions."""
    files = plain_model(config={"max_position_embeddings": positions}, name=f"tiny-{positions}")
    (files.path / "sentence_bert_config.json").unlink()
    backend = OpenVINOBackend(files, precision="fp32", streams=1)
    payloads = backend.tokenize(texts).payloads
    together = backend.embed(payloads)
    alone = np.concatenate([backend.embed([payload]) for payload in payloads])
    backend.close()
    assert backend.spec.max_tokens == positions
    assert max(map(len, cast("Any", payloads))) == positions
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_batches_of_full_length_get_a_variant_that_answers_the_same(
    backend: OpenVINOBackend, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the number of tokens compiled in, vectors stay the same, for padded rows too; it is compiled once."""
    monkeypatch.setattr(requests, "_WORTH_COMPILING", 3)
    payloads = backend.tokenize(texts).payloads
    compiled: list[object] = []
    compile_model = backend._core.compile_model

    def count_and_compile(*arguments: object) -> object:
        compiled.append(arguments)
        return compile_model(*arguments)

    monkeypatch.setattr(backend, "_core", SimpleNamespace(compile_model=count_and_compile))
    before = backend.embed(payloads)
    answers = [backend.embed(payloads[::-1])[::-1] for _ in range(6)]
    assert len(compiled) == 1
    for after in answers:
        np.testing.assert_allclose(after, before, atol=1e-5)


def test_the_variant_is_used_only_while_nearly_all_batches_are_of_full_length() -> None:
    """Two models side by side are in each other's way: among other batches the general one computes all."""
    full = requests.FullLength(8, lambda: "variant")
    mixed = [full.get(8 if number % 2 else 5) for number in range(200)]
    assert mixed == [None] * 200
    long = [full.get(8) for _ in range(200)]
    assert long[-1] == "variant"
    assert full.get(5) is None
    again = [full.get(8 if number % 2 else 5) for number in range(200)]
    assert again[-20:] == [None] * 20


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not tell")
def test_threads_are_not_tied_to_cores(plain_model: MakeModel, texts: list[str]) -> None:
    """Two models, or two processes, must be able to use all cores: no thread may be bound to fewer than the process."""
    backend = OpenVINOBackend(plain_model(), precision="fp32", streams=2)
    payloads = backend.tokenize(texts).payloads
    with ThreadPoolExecutor(2) as callers:
        list(callers.map(backend.embed, [payloads] * 8))
    allowed = [os.sched_getaffinity(thread.id) for thread in psutil.Process().threads()]
    backend.close()
    assert all(cores == os.sched_getaffinity(0) for cores in allowed)


def test_single_texts_get_a_variant_that_answers_the_same(
    backend: OpenVINOBackend, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spread over the cores or not, a text has its vector; both ways are used once the variant is there."""
    monkeypatch.setattr(requests, "_WORTH_SPREADING", 3)
    single = backend._pool._single_texts
    assert single is not None
    payloads = backend.tokenize(texts).payloads
    expected = [backend.embed([payload]) for payload in payloads]
    assert single._compiling is not None
    single._compiling.join()
    for _ in range(3):
        for payload, before in zip(payloads, expected, strict=True):
            np.testing.assert_allclose(backend.embed([payload]), before, atol=1e-5)
    assert single._faster.best is not None


def test_a_graph_without_blank_keys_answers_the_same(plain_model: MakeModel) -> None:
    """A copy for single texts joins nothing to their keys; what it was made from still does."""
    model = build_model(read_layout(plain_model().path))
    bare = without_blank_keys(model)
    core, options = openvino.Core(), {"INFERENCE_PRECISION_HINT": "f32"}
    with_blanks, without = (core.compile_model(graph, "CPU", options) for graph in (model, bare))
    assert [joins(with_blanks), joins(without)] == [True, False]
    for tokens in range(1, 34):
        ids = np.arange(tokens, dtype=np.int32)[np.newaxis] + 2
        feed = [ids, np.ones_like(ids)]
        np.testing.assert_allclose(without(feed)[0], with_blanks(feed)[0], atol=1e-5)


def joins(compiled: Any) -> bool:
    """Whether a compiled model joins tensors when it runs."""
    ops = compiled.get_runtime_model().get_ops()
    return any(op.get_rt_info()["layerType"].astype(str) == "Concatenation" for op in ops)


def test_closing_waits_for_a_variant_that_is_being_made(
    plain_model: MakeModel, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend may be closed right after the call that set the compilation off."""
    monkeypatch.setattr(requests, "_WORTH_SPREADING", 1)
    backend = OpenVINOBackend(plain_model(), precision="fp32", streams=2)
    backend.embed(backend.tokenize(texts[:1]).payloads)
    single = backend._pool._single_texts
    assert single is not None
    assert single._compiling is not None
    backend.close()
    assert not single._compiling.is_alive()


def test_a_variant_that_cannot_be_compiled_is_done_without(caplog: pytest.LogCaptureFixture) -> None:
    """The general model does the same; the attempt is made once."""
    attempts = []

    def fail() -> object:
        attempts.append(1)
        raise RuntimeError("cannot reshape")

    full = requests.FullLength(8, fail)
    with caplog.at_level("DEBUG", logger="embatch"):
        assert [full.get(8) for _ in range(100)] == [None] * 100
    assert len(attempts) == 1
    assert "cannot reshape" in caplog.text


def test_answers_are_the_callers_own(backend: OpenVINOBackend) -> None:
    """A later call leaves the vectors of an earlier one alone."""
    payloads = list(backend.tokenize(["the flow", "a layer"]).payloads)
    first = backend.embed(payloads[:1])
    kept = first.copy()
    backend.embed(payloads[1:])
    np.testing.assert_array_equal(first, kept)


def test_many_threads_get_their_own_answers(backend: OpenVINOBackend, texts: list[str]) -> None:
    """More callers than streams, batches of all shapes: everyone gets the vectors of their texts."""
    payloads = list(backend.tokenize(texts).payloads)
    expected = backend.embed(payloads)
    batches = [
        list(range(start, start + size)) for size in (1, 2, 3) for start in range(len(texts) - size + 1)
    ] * 4
    with ThreadPoolExecutor(6) as threads:
        answers = threads.map(lambda rows: backend.embed([payloads[row] for row in rows]), batches)
    for rows, answer in zip(batches, answers, strict=True):
        np.testing.assert_allclose(answer, expected[rows], atol=1e-5)


def test_a_closed_backend_says_so(plain_model: MakeModel) -> None:
    """Embedding after closing raises, an empty batch too; closing twice is allowed."""
    backend = OpenVINOBackend(plain_model(), precision="fp32", streams=1)
    payloads = backend.tokenize(["the flow"]).payloads
    backend.close()
    backend.close()
    for batch in ([], payloads):
        with pytest.raises(BackendClosedError, match="closed"):
            backend.embed(batch)


def test_closing_waits_for_calls_under_way(plain_model: MakeModel, texts: list[str]) -> None:
    """Calls that run while the backend is closed end with vectors or with the named error, and none hangs."""
    backend = OpenVINOBackend(plain_model(), precision="fp32", streams=2)
    payloads = list(backend.tokenize(texts).payloads)
    expected = backend.embed(payloads)
    started = threading.Barrier(5)

    def call() -> Any:
        started.wait()
        answers = []
        for _ in range(50):
            try:
                answers.append(backend.embed(payloads))
            except BackendClosedError as error:
                return [*answers, error]
        return answers

    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(call) for _ in range(4)]
        started.wait()
        backend.close()
        for answers in (future.result() for future in calls):
            for answer in answers:
                if not isinstance(answer, BackendClosedError):
                    np.testing.assert_allclose(answer, expected, atol=1e-5)


def test_prompts_come_from_the_folder(plain_model: MakeModel) -> None:
    """The model's own prompts are offered by name, and a prompt changes the vector as text would."""
    files = plain_model()
    about = files.path / "config_sentence_transformers.json"
    about.write_text('{"prompts": {"query": "query: ", "document": ""}}', encoding="utf-8")
    backend = OpenVINOBackend(files, precision="fp32", streams=1)
    assert backend.prompts == {"query": "query: "}
    by_prompt = backend.embed(backend.tokenize(["the flow"], prompt="query: ").payloads)
    by_text = backend.embed(backend.tokenize(["query: the flow"]).payloads)
    backend.close()
    np.testing.assert_array_equal(by_prompt, by_text)


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ({"streams": 0}, "streams=0"),
        ({"threads": -1}, "threads=-1"),
        ({"streams": 4, "threads": 2}, "threads=2 cannot serve streams=4"),
    ],
)
def test_impossible_choices_are_refused(plain_model: MakeModel, choice: dict[str, int], told: str) -> None:
    """Streams and threads that make no sense are a UsageError."""
    with pytest.raises(UsageError, match=told):
        OpenVINOBackend(plain_model(), precision="fp32", **choice)  # type: ignore[arg-type]  # int, all of them


def test_threads_limit_the_streams(plain_model: MakeModel) -> None:
    """One thread allowed is one stream, whatever the processor has."""
    backend = OpenVINOBackend(plain_model(), precision="fp32", threads=1)
    assert backend.streams == 1
    backend.close()
