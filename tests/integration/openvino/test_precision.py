"""Which precision `auto` takes, what is remembered about it, and what the processor is asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino
import pytest

from embatch.backends import cores
from embatch.backends.openvino import OpenVINOBackend, device
from embatch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from embatch.backends.resolve import ModelFiles

    MakeModel = Callable[..., ModelFiles]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def chosen(files: ModelFiles, precision: Any = "auto") -> str:
    """The precision that the backend says it computes in."""
    backend = OpenVINOBackend(files, precision=precision, streams=1)
    backend.close()
    return backend.spec.precision


@pytest.fixture
def native() -> str:
    """The processor's fast precision; the test is skipped where that is fp32."""
    kind = device.native_precision(openvino.Core())
    if kind == "fp32":
        pytest.skip("this processor computes natively in fp32 only")
    return kind


def test_auto_measures_once_and_remembers(plain_model: MakeModel, cache: Path, native: str) -> None:
    """The outcome of the comparison is kept for this model, processor and version, and believed the next time."""
    files = plain_model()
    first = chosen(files)
    (memo,) = cache.rglob("*.json")
    outcome = json.loads(memo.read_text(encoding="utf-8"))
    assert first == (native if outcome["exact"] else "fp32")
    assert outcome["exact"] == (outcome["mean_cosine"] >= 0.9999 and outcome["least_cosine"] >= 0.9995)
    for believed, precision in ((False, "fp32"), (True, native)):
        memo.write_text(json.dumps({**outcome, "exact": believed}), encoding="utf-8")
        assert chosen(files) == precision


@pytest.mark.parametrize("content", ["", "{", "[]", '{"exact": "yes"}'])
def test_a_broken_memo_is_measured_again(
    plain_model: MakeModel, cache: Path, native: str, content: str
) -> None:
    """What another program or a full disk left in the cache is replaced."""
    files = plain_model()
    first = chosen(files)
    (memo,) = cache.rglob("*.json")
    memo.write_text(content, encoding="utf-8")
    assert chosen(files) == first
    assert json.loads(memo.read_text(encoding="utf-8"))["exact"] == (first == native)


def test_a_cache_that_cannot_be_written_is_no_error(plain_model: MakeModel, cache: Path) -> None:
    """Where the cache folder is a file, `auto` measures at each start."""
    cache.write_text("no folder", encoding="utf-8")
    assert chosen(plain_model()) in {"fp32", "bf16", "fp16"}


def test_the_fast_precision_is_close_to_fp32(plain_model: MakeModel, texts: list[str], native: Any) -> None:
    """Asked for by name, the native precision gives nearly the vectors of fp32."""
    vectors = []
    for precision in ("fp32", native):
        backend = OpenVINOBackend(plain_model(), precision=precision, streams=1)
        vectors.append(backend.embed(backend.tokenize(texts).payloads))
        backend.close()
    assert np.einsum("ij,ij->i", *vectors).min() > 0.999


def test_an_emulated_precision_is_refused(plain_model: MakeModel) -> None:
    """A precision that the processor would only emulate is a UsageError that says what it has."""
    foreign: Any = "fp16" if device.native_precision(openvino.Core()) != "fp16" else "bf16"
    with pytest.raises(UsageError, match=f"precision='{foreign}': this processor computes natively in fp32"):
        chosen(plain_model(), foreign)


def test_two_threads_of_a_core_count_once(tmp_path: Path) -> None:
    """Processors that share a core are one core; without the system's topology nothing is known."""
    for processor, siblings in {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}.items():
        folder = tmp_path / f"cpu{processor}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n", encoding="ascii")
    assert cores.physical_cores({0, 1, 2, 3}, tmp_path) == 2
    assert cores.physical_cores({0, 2}, tmp_path) == 1
    assert cores.physical_cores({0, 9}, tmp_path) == 0


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "200000 100000\n"}, 2.0),
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_quota_of_a_container(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    """Both versions of cgroups are read; no limit is None."""
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="ascii")
    assert cores.cgroup_quota(tmp_path) == quota


def test_this_machine_has_a_core() -> None:
    """There is always one core to use."""
    assert cores.usable_cores() >= 1
