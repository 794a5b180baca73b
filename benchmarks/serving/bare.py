"""The bare backend call that one idle request is compared with: tokenise a text and run the model, nothing else.

A process of its own: `python -m benchmarks.serving.bare` takes `{model, texts, pause_s}` as JSON on standard input and
prints the milliseconds of each call. Between calls it rests as long as the client of a server does.
"""

from __future__ import annotations

import json
import sys
import time

from embatch import Embedder

_WARM = 20


def main() -> None:
    """Measure."""
    asked = json.loads(sys.stdin.read())
    with Embedder(asked["model"], cache=None) as embedder:
        backend = embedder.backend
        took = []
        for number, text in enumerate([*asked["texts"][:1] * _WARM, *asked["texts"]]):
            time.sleep(asked["pause_s"])
            started = time.perf_counter()
            vectors = backend.embed(backend.tokenize([text]).payloads)
            if number >= _WARM:
                took.append((time.perf_counter() - started) * 1000)
            assert len(vectors) == 1
        print(json.dumps({"ms": took, "precision": embedder.spec.precision}))


if __name__ == "__main__":
    main()
