"""A shipped sample of texts: what a model is tried on before the user's own texts are known.

Short lines and long passages, prose and code, logs, queries and many languages: own writing, passages in the public
domain, and pieces of embatch's source. The int8 quantiser calibrates on it, and the torch backend checks half
precision with it. It must never hold texts that a benchmark scores.

The file is data for models, not code: the comments and markers in its pieces of source mean nothing here. Changing a
character changes what int8 is calibrated on, and with it every int8 vector's revision.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

_BETWEEN = "\n%\n"


@lru_cache(maxsize=1)
def _all() -> tuple[str, ...]:
    content = files("embatch.backends").joinpath("data", "sample.txt").read_text(encoding="utf-8")
    return tuple(content.removesuffix("\n").split(_BETWEEN))


def sample_texts(most: int | None = None) -> list[str]:
    """The first `most` texts of the sample, in an order that mixes all kinds; all (about 300) unless given."""
    return list(_all()[:most])
