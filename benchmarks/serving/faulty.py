"""embatch's server over a backend that goes wrong: for soaking, never for speed.

`python -m benchmarks.serving.faulty --model FOLDER --port N` serves minilm through a backend that fails some calls at
random, and others for texts that begin with a mark. `/_soak` tells how the queue stands.
"""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from benchmarks.serving.faults import FAIL, MARKS, NAN, SLOW_CLIENT_S, TELL, TIGHT, Chances
from embatch import Embedder
from embatch.errors import BackendError, OutOfMemoryError
from embatch.frontends.async_embedder import AsyncEmbedder
from embatch.frontends.server.app import build_app
from embatch.frontends.server.settings import ServedModel, ServeSettings
from embatch.frontends.server.transport.listening import fit_to_files, listen
from embatch.frontends.server.transport.running import Server, prepare_process
from embatch.types import Tokenized

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embatch.types import Backend, FloatArray


class FaultyBackend:
    """A backend that does what another does, except when it does not.

    Args:
        inner: the real one; closed with this.
        chances: of faults.
        born: when the server started, for outages.
        seed: of the chances.
    """

    def __init__(self, inner: Backend, chances: Chances, born: float, seed: int) -> None:
        self._inner = inner
        self._chances = chances
        self._born = born
        self._rng = random.Random(seed)
        self._lock = threading.Lock()
        self.spec = inner.spec
        self.limits = inner.limits
        self.streams = inner.streams
        self.device = inner.device
        self.prompts = inner.prompts

    def tokenize(self, texts: Sequence[str], *, prompt: str = "") -> Tokenized:
        """As the real one, without the marks; each payload remembers its mark."""
        marks = [next((mark for mark in MARKS if text.startswith(mark)), "") for text in texts]
        plain = [text[len(mark) :] for text, mark in zip(texts, marks, strict=True)]
        return _marked(self._inner.tokenize(plain, prompt=prompt), marks)

    def take_tokens(self, ids: Sequence[Sequence[int]]) -> Tokenized:
        """As the real one."""
        taken: Tokenized = self._inner.take_tokens(ids)  # type: ignore[attr-defined]  # minilm's backend can
        return _marked(taken, [""] * len(ids))

    def split(self, text: str, *, prompt: str = "") -> list[str]:
        """As the real one."""
        return self._inner.split(text, prompt=prompt)

    def embed(self, payloads: Sequence[Any]) -> FloatArray:
        """Vectors, or a fault."""
        marks = [mark for mark, _ in payloads]
        with self._lock:
            fate = self._rng.random()
        chances = self._chances
        age = time.monotonic() - self._born
        if age > chances.outage_every_s and age % chances.outage_every_s < chances.outage_s:
            raise BackendError("an outage that the soak asked for")
        if FAIL in marks or fate < chances.error:
            raise BackendError("a failure that the soak asked for")
        fate -= chances.error
        if (TIGHT in marks and len(marks) > 1) or 0.0 <= fate < chances.memory:
            raise OutOfMemoryError("a lack of memory that the soak asked for")
        fate -= chances.memory
        vectors = self._inner.embed([payload for _, payload in payloads])
        if NAN in marks or 0.0 <= fate < chances.nan:
            vectors = np.array(vectors)
            vectors[[row for row, mark in enumerate(marks) if mark == NAN] or [0]] = np.nan
        fate -= chances.nan
        if 0.0 <= fate < chances.slow:
            time.sleep(chances.slow_s)
        return vectors

    def memory_used(self) -> float:
        """As the real one."""
        return self._inner.memory_used()

    def close(self) -> None:
        """As the real one."""
        self._inner.close()


class Numbered(AsyncEmbedder):
    """Knows which one it is of those that were opened."""

    number = 0


@click.command()
@click.option("--model", required=True)
@click.option("--port", type=int, required=True)
@click.option("--state", type=click.Path(path_type=Path), required=True)
@click.option("--queue", type=int, default=4096)
@click.option("--timeout", "timeout_s", type=float, default=20.0)
@click.option("--outage-every", type=float, default=Chances().outage_every_s)
def main(model: str, port: int, state: Path, queue: int, timeout_s: float, outage_every: float) -> None:
    """Serve until SIGTERM."""
    prepare_process()
    settings = fit_to_files(
        ServeSettings(
            port=port,
            models=(ServedModel(name="minilm", model=model),),
            queue=queue,
            state=state,
            timeout_s=timeout_s,
            header_s=SLOW_CLIENT_S,
            body_s=SLOW_CLIENT_S,
            send_s=SLOW_CLIENT_S,
            drain_s=5.0,
        )
    )
    chances = Chances(outage_every_s=outage_every)
    born = time.monotonic()
    opened: deque[Numbered] = deque(maxlen=1)  # nothing keeps alive what the pool has closed
    numbers = itertools.count(1)

    def open_model(served: ServedModel) -> AsyncEmbedder:
        inner = Embedder(served.model).backend
        number = next(numbers)
        asking = Numbered(
            served.model,
            backend=FaultyBackend(inner, chances, born, seed=number),
            queue=queue,
            timeout_s=timeout_s,
            observer=app.state.server.board.named(served.name),
        )
        asking.number = number
        opened.append(asking)
        return asking

    app = build_app(settings, open_model=open_model)
    listener = listen(settings.host, settings.port)
    Server(_telling(app, opened), settings, app.state.server).run_until_stopped(listener, lambda: None)


def _telling(app: Any, opened: deque[Numbered]) -> Any:
    """The application with one more path: how the queue of the model that is open stands."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != TELL:
            await app(scope, receive, send)
            return
        body = json.dumps(_standing(opened)).encode()
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

    return answer


def _standing(opened: deque[Numbered]) -> dict[str, int]:
    if not opened:
        return {}
    snapshot = opened[-1].snapshot()
    counts = ("running", "asks", "answered", "refused", "expired", "cancelled", "failed", "inputs", "batches")
    return {
        "opened": opened[-1].number,
        "waiting": sum(snapshot.waiting.values()),
        "waiting_tokens": snapshot.waiting_tokens,
        **{name: int(getattr(snapshot, name)) for name in counts},
    }


def _marked(tokenized: Tokenized, marks: list[str]) -> Tokenized:
    payloads = list(zip(marks, tokenized.payloads, strict=True))
    return Tokenized(payloads, tokenized.lengths, tokenized.truncated)


if __name__ == "__main__":
    main()
