"""From files to documents, and from documents to chunks."""

from embatch.search.chunks.chunker import Chunker
from embatch.search.chunks.reading import FileContent, ReadOptions, read_file

__all__ = ["Chunker", "FileContent", "ReadOptions", "read_file"]
