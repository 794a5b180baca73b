"""int8: near enough to fp32, kept between processes, and known by its calibration."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from embatch.backends.openvino import OpenVINOBackend
from embatch.backends.openvino.quantize import calibration_digest, calibration_texts
from embatch.backends.resolve import resolve
from embatch.backends.sample import sample_texts
from embatch.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from embatch.types import FloatArray


def vectors(backend: OpenVINOBackend, texts: list[str]) -> FloatArray:
    payloads = backend.tokenize(texts).payloads
    return np.concatenate([backend.embed(payloads[i : i + 8]) for i in range(0, len(payloads), 8)])


@pytest.fixture(scope="module")
def int8() -> Iterator[OpenVINOBackend]:
    """minilm in int8, quantised on the shipped sample in the user's cache if it is not there."""
    pytest.importorskip("nncf")
    backend = OpenVINOBackend(resolve("minilm"), precision="int8")
    yield backend
    backend.close()


@pytest.mark.int8
@pytest.mark.model
@pytest.mark.timeout(300)
def test_int8_stays_near_fp32(int8: OpenVINOBackend) -> None:
    """On texts of many kinds the mean cosine to fp32 is at least 0.997, and no text is far off."""
    texts = sample_texts()[-120:]
    exact = OpenVINOBackend(resolve("minilm"), precision="fp32")
    cosines = (vectors(int8, texts) * vectors(exact, texts)).sum(axis=1)
    exact.close()
    assert cosines.mean() >= 0.997
    assert cosines.min() >= 0.97


@pytest.mark.int8
@pytest.mark.model
@pytest.mark.timeout(300)
def test_a_quantised_model_is_kept_and_needs_no_nncf(
    int8: OpenVINOBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once made, int8 opens without the extra, and gives the same vectors."""
    monkeypatch.setitem(sys.modules, "nncf", None)
    again = OpenVINOBackend(resolve("minilm"), precision="int8")
    assert again.spec == int8.spec
    np.testing.assert_array_equal(vectors(again, ["a text"]), vectors(int8, ["a text"]))
    again.close()


@pytest.mark.model
def test_without_the_extra_the_way_to_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """int8 without NNCF and without a kept model names what to install."""
    files = resolve("minilm")
    monkeypatch.setenv("EMBATCH_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingExtraError) as caught:
        OpenVINOBackend(files, precision="int8")
    assert "embatch[int8]" in caught.value.hint


@pytest.mark.int8
@pytest.mark.model
def test_the_calibration_is_part_of_what_vectors_are_known_by(int8: OpenVINOBackend) -> None:
    """The spec's revision names the calibration, so vectors of two calibrations never mix."""
    assert int8.spec.precision == "int8"
    assert int8.spec.revision.endswith("+" + calibration_digest(calibration_texts()))
    assert calibration_digest(["a"]) != calibration_digest(["b"])


def test_another_recipe_is_another_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors of models that were quantised differently never mix, though the texts are the same."""
    before = calibration_digest(["a"])
    monkeypatch.setattr("embatch.backends.openvino.quantize._RECIPE", 0)
    assert calibration_digest(["a"]) != before


def test_the_users_own_texts_are_thinned_out_evenly() -> None:
    """At most 300 texts are used, from all over what was given; blanks are left out."""
    own = [f"text {i}" for i in range(1000)]
    chosen = calibration_texts([*own, " "])
    assert len(chosen) == 300
    assert chosen[0] == "text 0"
    assert int(chosen[-1].split()[1]) > 890
    with pytest.raises(UsageError, match="calibrate"):
        calibration_texts(["", " "])
