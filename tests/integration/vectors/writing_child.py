"""A process that brings a Lance store to a state, step by step, to be killed at any moment.

`python writing_child.py FOLDER GENERATIONS`: in each generation every file gets new chunks, but for those that share
their content, and one file comes and one goes. Whoever starts it again goes on where it was.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.contract.chunk_stores.conftest import SPEC
from tests.contract.chunk_stores.making import chunk, state, vectors

from embatch.storage.vectors import open_writer

FILES = 24
_TOGETHER = 6


def wanted(generation: int) -> dict[str, list[str]]:
    """The texts of each file."""
    files = {
        f"f{n}.py": [f"word{chr(97 + n)}x text {generation} {part}" for part in range(n % 4 + 1)]
        for n in range(FILES)
    }
    files[f"only{generation}.py"] = ["the same in all generations"]
    return files


def main(folder: Path, generations: int) -> None:
    writer = open_writer(folder, spec=SPEC)
    first = int(writer.about.get("generation", "0"))
    for generation in range(first, generations):
        bring(writer, generation)
        writer.describe({"generation": str(generation)})
        writer.publish()
    writer.close()


def bring(writer, generation: int) -> None:  # type: ignore[no-untyped-def]  # a ChunkWriter
    files = wanted(generation)
    there = writer.files()
    writer.remove([path for path in there if path not in files])
    todo = [path for path in files if path not in there or there[path].mtime_ns != generation]
    for at in range(0, len(todo), _TOGETHER):
        paths = todo[at : at + _TOGETHER]
        chunks = [chunk(path, text, at=n) for path in paths for n, text in enumerate(files[path])]
        found = writer.known([one.digest for one in chunks])
        rows = vectors(chunks)
        for row, one in zip(rows, chunks, strict=True):
            if one.digest in found:
                assert abs(row - found[one.digest]).max() < 1e-6
        writer.replace([state(path, len(files[path]), mtime_ns=generation) for path in paths], chunks, rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
