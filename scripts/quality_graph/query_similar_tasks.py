"""Find past tasks that are like one, or like many: `embatch tasks query`, from a checkout."""

from _checkout import tasks

if __name__ == "__main__":
    tasks("query")
