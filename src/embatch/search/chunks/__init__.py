"""From files to documents, and from documents to chunks."""

from embatch.search.chunks.chunker import Chunker, cut_version
from embatch.search.chunks.reading import FileContent, ReadOptions, read_file

__all__ = ["Chunker", "FileContent", "ReadOptions", "cut_version", "read_file"]
