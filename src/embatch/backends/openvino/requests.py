"""Compiled models and who may run on them when: the part of the backend that threads share.

A `RequestPool` runs as many batches side by side as it has requests; further callers wait. Two kinds of batches get a
variant of the model once they turn out to be frequent: those of full length, and single texts while nothing else runs.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from embatch.backends.openvino.failures import FOREIGN, running
from embatch.decisions.faster import Faster
from embatch.errors import BackendClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from embatch.types import FloatArray, IntArray

_WORTH_COMPILING = 24
"""Batches of full length before they get a variant of their own: about a second's work, against 0.15 s to compile."""
_MOSTLY = 0.75
"""Part of the latest batches that must be of full length: two models side by side are in each other's way."""
_LATEST = 1 / 16  # weight of the newest batch in that

_WORTH_SPREADING = 32
"""Single texts before they get a variant: who asks so many asks on."""

_log = logging.getLogger("embatch")


class FullLength:
    """A variant of the model for batches that are as long as the model allows, used while nearly all are.

    Documents beyond the limit are all cut to one length, so that it is by far the most frequent one. With the number of
    tokens known in advance attention takes less time: over a whole MiniLM 5 % (2 cores, Zen 5, bfloat16), 3 % (Zen 4).
    It costs a second copy of the packed weights, and threads of its own: taking turns with the general model, batch by
    batch, cost 5 %. Thread-safe.

    Args:
        tokens: the length.
        compile_variant: makes it, once there were enough such batches; called once at most.
    """

    def __init__(self, tokens: int, compile_variant: Callable[[], Any]) -> None:
        self.tokens = tokens
        self._compile: Callable[[], Any] | None = compile_variant
        self._compiled: Any = None
        self._seen = 0
        # Of such batches among the latest. Streams may lose an update of each other's, which matters little.
        self._share = 1.0
        self._lock = threading.Lock()

    def get(self, tokens: int) -> Any:
        """The variant for a batch of this length, or None: called once for each batch."""
        fits = tokens == self.tokens
        self._share += (fits - self._share) * _LATEST
        if not fits or self._share < _MOSTLY:
            return None
        if self._compiled is None and self._compile is not None and self._lock.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._lock.release()
        return self._compiled

    def close(self) -> None:
        """Release the variant."""
        with self._lock:
            self._compile = self._compiled = None

    def _look(self) -> None:
        self._seen += 1
        if self._seen < _WORTH_COMPILING or self._compile is None:
            return
        compile_variant, self._compile = self._compile, None
        try:
            self._compiled = compile_variant()
        except FOREIGN as error:  # the general model does the same, a little slower
            _log.debug("no variant for batches of %d tokens: %s", self.tokens, error)


class SingleTexts:
    """A variant of the model for one text at a time, spread over all cores, used while it is the faster way.

    Reading the weights takes most of such a call, and two cores read faster than one: 12 tokens of MiniLM took 1.05 ms
    instead of 1.53 on an idle machine, and twice as long as soon as anything else ran. So both ways are measured, again
    and again. It is compiled in a thread of its own, since somebody waits for an answer; it costs a second copy of
    the packed weights. One caller at a time.

    Args:
        compile_variant: makes it; called once at most.
    """

    def __init__(self, compile_variant: Callable[[], Any]) -> None:
        self._compile: Callable[[], Any] | None = compile_variant
        self._compiling: threading.Thread | None = None
        self._request: Any = None
        self._seen = 0
        self._faster = Faster()

    def run(self, general: Any, ids: IntArray, mask: IntArray) -> FloatArray:
        """The answer to one text, by the request for batches of any kind or by the variant's."""
        if self._request is None:
            self._look()
            return _infer(general, ids, mask)
        way = self._faster.choose()
        started = time.perf_counter()
        answer = _infer(self._request if way else general, ids, mask)
        self._faster.observe(way, time.perf_counter() - started)
        return answer

    def close(self) -> None:
        """Release the variant, once it is not being made any more."""
        self._seen = _WORTH_SPREADING
        if self._compiling is not None:
            self._compiling.join()
        self._compile = self._request = None  # and with them the model

    def _look(self) -> None:
        self._seen += 1
        if self._seen == _WORTH_SPREADING and self._compile is not None:
            compile_variant, self._compile = self._compile, None
            self._compiling = threading.Thread(
                target=self._make, args=(compile_variant,), name="embatch-compile", daemon=True
            )
            self._compiling.start()

    def _make(self, compile_variant: Callable[[], Any]) -> None:
        try:
            self._request = compile_variant().create_infer_request()
        except FOREIGN as error:  # the general model does the same, perhaps slower
            _log.debug("no variant for single texts: %s", error)


@dataclass(slots=True)
class _Slot:
    """What one batch at a time runs on."""

    general: Any
    full: Any = None


class RequestPool:
    """A compiled model and its infer requests. Thread-safe.

    Args:
        compiled: the model for batches of any length.
        count: batches side by side.
        full_length: the variant for the longest batches, if there may be one.
        single_texts: the variant for one text while no other batch runs, if there may be one.
    """

    def __init__(
        self,
        compiled: Any,
        count: int,
        *,
        full_length: FullLength | None = None,
        single_texts: SingleTexts | None = None,
    ) -> None:
        self._count = count
        self._compiled = compiled
        self._full_length = full_length
        self._single_texts = single_texts
        # None among the slots says that the pool is closed.
        self._slots: SimpleQueue[_Slot | None] = SimpleQueue()
        for _ in range(count):
            self._slots.put(_Slot(compiled.create_infer_request()))
        self._closing = threading.Lock()

    def run(self, ids: IntArray, mask: IntArray) -> FloatArray:
        """The graph's answer to ids and mask, once a request is free.

        Raises:
            BackendClosedError: after `close`.
            BackendError: OpenVINO failed; an OutOfMemoryError if for want of memory.
        """
        slot = self._slots.get()
        if slot is None:
            self._slots.put(None)
            raise BackendClosedError("The model is closed: it cannot embed any more")
        try:
            with running(f"embedding {ids.shape[0]} texts of up to {ids.shape[1]} tokens"):
                # All other slots free: nobody else can get here before ours is given back.
                if len(ids) == 1 and self._single_texts and self._slots.qsize() == self._count - 1:
                    return self._single_texts.run(slot.general, ids, mask)
                return _infer(self._request(slot, ids.shape[1]), ids, mask)
        finally:
            self._slots.put(slot)

    def close(self) -> None:
        """Wait for the requests under way, then release the model. Closing twice is allowed."""
        with self._closing:
            if self._compiled is None:
                return
            for _ in range(self._count):
                self._slots.get()
            self._slots.put(None)
            self._compiled = None
            if self._full_length is not None:
                self._full_length.close()
            if self._single_texts is not None:
                self._single_texts.close()

    def _request(self, slot: _Slot, tokens: int) -> Any:
        variant = None if self._full_length is None else self._full_length.get(tokens)
        if variant is None:
            return slot.general
        if slot.full is None:
            slot.full = variant.create_infer_request()
        return slot.full


def _infer(request: Any, ids: IntArray, mask: IntArray) -> FloatArray:
    """Run one request on memory that OpenVINO owns, and copy the answer out of it."""
    for number, array in enumerate((ids, mask)):
        tensor = request.get_input_tensor(number)
        tensor.shape = array.shape
        tensor.data[:] = array
    request.infer()
    return np.array(request.get_output_tensor(0).data)
