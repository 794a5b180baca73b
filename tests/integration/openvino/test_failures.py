"""OpenVINO's exceptions as embatch's, made up and real."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import pytest

from embatch.backends.openvino.failures import FOREIGN, reading, running
from embatch.backends.openvino.graphs import blocks
from embatch.errors import (
    BackendClosedError,
    BackendError,
    CorruptModelError,
    EmbatchError,
    OutOfMemoryError,
    UsageError,
)

NO_MEMORY = [
    RuntimeError("[CPU] Gather node Check 'ptr' failed:\nFailed to allocate 15728640000 bytes of memory\n\n"),
    RuntimeError("Can't allocate memory"),
    RuntimeError("std::bad_alloc"),
    MemoryError(),
]


@pytest.mark.parametrize("cause", NO_MEMORY, ids=str)
def test_failed_allocations_are_out_of_memory(cause: Exception) -> None:
    """However OpenVINO words it, the engine may halve the batch."""
    with pytest.raises(OutOfMemoryError) as caught, running("embedding"):
        raise cause
    assert caught.value.__cause__ is cause
    with pytest.raises(OutOfMemoryError), reading(Path("model.xml")):
        raise cause


@pytest.mark.parametrize(
    "cause", [RuntimeError("Exception from a.cpp:1:\nno such layer\n\n"), TypeError("no such layer")]
)
def test_anything_else_names_its_last_line(cause: Exception) -> None:
    """The message says what was being done and why it failed, without OpenVINO's source lines."""
    with (
        pytest.raises(BackendError, match=r"^OpenVINO failed while compiling: no such layer$"),
        running("compiling"),
    ):
        raise cause
    with (
        pytest.raises(CorruptModelError, match=r"^OpenVINO cannot read model\.xml: no such layer$"),
        reading(Path("model.xml")),
    ):
        raise cause


@pytest.mark.parametrize("ours", [UsageError("x"), BackendClosedError("x")])
def test_our_own_errors_pass(ours: EmbatchError) -> None:
    """What is already named keeps its name."""
    for mapping in (running("embedding"), reading(Path("model.xml"))):
        with pytest.raises(type(ours)), mapping:
            raise ours


def test_every_exception_of_the_library_is_mapped() -> None:
    """OpenVINO's own exception classes are all among those that the mapping catches."""
    for value in vars(openvino.exceptions).values():
        if isinstance(value, type) and issubclass(value, Exception):
            assert issubclass(value, FOREIGN), value


def test_a_real_failure_of_a_graph_is_mapped() -> None:
    """Inputs that do not fit each other fail inside OpenVINO, and come out as a BackendError."""
    ids, mask = blocks.new_inputs()
    answer = openvino.opset15.result(openvino.opset15.add(ids, mask))
    compiled = openvino.Core().compile_model(openvino.Model([answer], [ids, mask], "sum"), "CPU")
    with pytest.raises(BackendError, match="OpenVINO failed while adding"), running("adding"):
        compiled([np.zeros((2, 3), np.int32), np.zeros((2, 4), np.int32)])
