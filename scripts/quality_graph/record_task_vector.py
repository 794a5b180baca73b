"""Record one finished task, or many: `embatch tasks record`, from a checkout."""  # noqa: INP001  # scripts are no package

from _checkout import tasks

if __name__ == "__main__":
    tasks("record")
