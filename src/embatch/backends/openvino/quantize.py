"""A model in int8: weights and activations of its matrix products, quantised once and kept.

Post-training quantisation by NNCF (the int8 extra), calibrated on texts: the user's own, or the shipped sample. What
comes out is an OpenVINO file in the user's cache; compiling and running it is the backend's.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import logging
import os
import warnings
from typing import TYPE_CHECKING, Any

import openvino

from embatch._version import __version__
from embatch.backends.cache import cache_folder, exclusive, publish, staging
from embatch.backends.openvino.batches import pad
from embatch.backends.openvino.graphs import build_model
from embatch.backends.sample import sample_texts
from embatch.errors import BackendError, MissingExtraError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from embatch.backends.layout import Layout
    from embatch.backends.resolve import ModelFiles
    from embatch.backends.tokenizing import TextTokenizer

MOST_TEXTS = 300
"""Texts that are used for calibration at most: more measured no better and takes longer."""

_SMOOTHING = 0.8
"""How much of the activations' range SmoothQuant moves into the weights (Xiao et al. 2023, alpha). On MiniLM and the
sample's last 120 texts the mean cosine to fp32 was 0.9978 at 0.7, 0.9981 at 0.75, 0.8 and 0.85, where single texts end
further off. Below 0.7 it falls fast: 0.990 at 0.5 while the last contraction was kept exact instead of the first."""

_RECIPE = 3
"""Raised whenever a model is quantised differently: other vectors need another name, and another file. Another form of
the graph counts: blank keys in attention moved MiniLM's vectors by a cosine of 0.9993, no further from fp32."""

_log = logging.getLogger("embatch")


def calibration_texts(own: Sequence[str] | None = None) -> list[str]:
    """What to calibrate on: an even selection of the user's `own` texts, or the shipped sample.

    Raises:
        UsageError: texts were given, and none of them has a word in it.
    """
    if own is None:
        return sample_texts(MOST_TEXTS)
    usable = [text for text in own if text.strip()]
    if not usable:
        raise UsageError("there is no text to calibrate int8 on", hint="Give some texts like those to embed.")
    step = max(1, len(usable) // MOST_TEXTS)
    return usable[::step][:MOST_TEXTS]


def calibration_digest(texts: Sequence[str]) -> str:
    """8 hex digits that name a calibration: it changes vectors, so it is part of what they are known by."""
    digest = hashlib.sha256(f"recipe {_RECIPE} ".encode())
    for text in texts:
        digest.update(f"{len(text)} {text}".encode())
    return digest.hexdigest()[:8]


def quantized_model(
    files: ModelFiles, layout: Layout, tokenizer: TextTokenizer, *, texts: Sequence[str]
) -> Path:
    """The `.xml` of the model in int8, made on first use: about ten seconds for a small model.

    Args:
        files: the model.
        layout: what is in its folder.
        tokenizer: makes the calibration's batches.
        texts: from `calibration_texts`.

    Raises:
        MissingExtraError: NNCF is not installed.
        BackendError: NNCF could not quantise this model.
        DiskFullError, OutputNotWritableError: the cache cannot be written.
    """
    versions = f"openvino {openvino.__version__}, embatch {__version__}"
    subject = f"{files.name} {files.revision} {calibration_digest(texts)}, {versions}"
    target = cache_folder() / "int8" / hashlib.sha256(subject.encode()).hexdigest()[:32]
    path = target / "model.xml"
    if path.exists():
        return path
    nncf = _nncf()
    target.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(target):
        if not path.exists():
            _log.info("quantising %s to int8 on %d texts", files.name, len(texts))
            model = _quantized(nncf, build_model(layout), tokenizer, texts)
            with staging(target) as folder:
                openvino.save_model(model, folder / path.name, compress_to_fp16=False)
                publish(folder, target)
    return path


def _quantized(nncf: Any, model: Any, tokenizer: TextTokenizer, texts: Sequence[str]) -> Any:
    payloads = tokenizer.tokenize(texts).payloads
    dataset = nncf.Dataset(
        [pad([payload], tokenizer.pad_id, tokenizer.max_tokens) for payload in payloads], list
    )
    advanced = nncf.AdvancedQuantizationParameters(
        # The whole range that was seen: cutting off rare large activations, as the default does, costs accuracy.
        activations_range_estimator_params=_range_estimators().MINMAX,
        smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=_SMOOTHING),
    )
    try:
        with _silent():
            return nncf.quantize(
                model,
                dataset,
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(payloads),
                fast_bias_correction=True,
                ignored_scope=nncf.IgnoredScope(names=_kept_exact(model), types=["Gather"], validate=False),
                advanced_parameters=advanced,
            )
    except Exception as error:
        raise BackendError(f"NNCF could not quantise the model: {type(error).__name__}: {error}") from error


def _kept_exact(model: Any) -> list[str]:
    """Names of the products that stay exact: little work, much of the error.

    Products of two activations are attention's scores and mixes. Of the products with weights, the first contraction of
    the feed-forward layers does the most harm: on MiniLM the mean cosine to fp32 rises from 0.9970 to 0.9978 when it
    stays exact, to 0.9974 or less with another contraction instead (Zen 4; the last one exact in all of these).
    """
    products = [op for op in model.get_ordered_ops() if op.get_type_name() == "MatMul"]
    attention = [op for op in products if not any(_is_constant(value) for value in op.input_values())]
    contractions = [
        op
        for op in products
        if _is_constant(op.input_value(1))
        and op.get_output_partial_shape(0)[-1].is_static
        and op.get_input_partial_shape(0)[-1].get_length() > op.get_output_partial_shape(0)[-1].get_length()
    ]
    return [op.get_friendly_name() for op in (*attention, *contractions[:1])]


def _is_constant(value: Any) -> bool:
    node = value.get_node()
    while node.get_type_name() in {"Convert", "Reshape", "Transpose"}:
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")


def _nncf() -> Any:
    # NNCF reports its use over the network unless told that it runs unattended, when it is imported.
    os.environ.setdefault("NNCF_CI", "1")
    try:
        with _silent():
            return importlib.import_module("nncf")
    except ImportError as error:
        raise MissingExtraError(
            "int8 needs NNCF, which is not installed", hint='Install it: pip install "embatch[int8]"'
        ) from error


def _range_estimators() -> Any:
    return importlib.import_module("nncf.quantization.range_estimator").RangeEstimatorParametersSet


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """NNCF logs and draws bars on standard output, which belongs to our caller."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
