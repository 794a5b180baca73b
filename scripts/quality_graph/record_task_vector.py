"""Record one finished task, or many: `embatch tasks record`, from a checkout."""

from _checkout import tasks

if __name__ == "__main__":
    tasks("record")
