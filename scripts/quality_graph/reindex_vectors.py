"""Bring all recorded tasks to another model: `embatch tasks reindex`, from a checkout."""

from _checkout import tasks

if __name__ == "__main__":
    tasks("reindex")
