"""A plain server around sentence-transformers: what people write on a first afternoon.

One route of OpenAI's shape; each request is one call of `encode` in a thread, one at a time behind a lock, since the
model uses every core already. Runs in the peer's own environment: `python plain.py MODEL_FOLDER PORT`.
"""

from __future__ import annotations

import base64
import sys
import threading

import uvicorn
from fastapi import FastAPI  # type: ignore[import-not-found]  # only in the peer's own environment
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

app = FastAPI()
model = SentenceTransformer(sys.argv[1], device="cpu")
lock = threading.Lock()


class Asked(BaseModel):  # type: ignore[misc]  # a foreign base without types
    """OpenAI's request, as far as it goes here."""

    input: str | list[str]
    model: str = "minilm"
    encoding_format: str = "float"


@app.get("/health")  # type: ignore[untyped-decorator]  # the library is not here when types are checked
def health() -> dict[str, str]:
    """Ready once the model is loaded, which is before this route is there."""
    return {"status": "ok"}


@app.post("/v1/embeddings")  # type: ignore[untyped-decorator]  # as above
def embeddings(asked: Asked) -> dict[str, object]:
    """A route that is no coroutine runs in a thread of the framework's pool."""
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    with lock:
        vectors = model.encode(texts)
    rows = [
        base64.b64encode(vector.tobytes()).decode() if asked.encoding_format == "base64" else vector.tolist()
        for vector in vectors
    ]
    data = [{"object": "embedding", "index": n, "embedding": row} for n, row in enumerate(rows)]
    return {"object": "list", "data": data, "model": asked.model}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
