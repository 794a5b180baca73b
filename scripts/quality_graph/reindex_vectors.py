"""Bring all recorded tasks to another model: `embatch tasks reindex`, from a checkout."""  # noqa: INP001  # scripts are no package

from _checkout import tasks

if __name__ == "__main__":
    tasks("reindex")
