"""A process that spends a day's money through a gateway until it is refused or killed: `python -m` this module."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.integration.gateway.conftest import MODEL
from tests.waiters import Asked

from embatch.frontends.gateway import Gateway
from embatch.frontends.remote import RemoteModel
from embatch.frontends.remote_host import RemoteHost
from embatch.providers.registry import open_provider
from embatch.serving import Answer
from embatch.storage.spending import Purse


def main() -> None:
    """Read one order, and say `answered` for each round of asks that was."""
    order = json.loads(sys.stdin.readline())
    model = RemoteModel(open_provider(MODEL, base_url=order["url"], api_key="a-key"))
    purse = Purse(Path(order["path"]), per_day=order["bound"])
    gateway = Gateway(RemoteHost(model, dimensions=None, overlong="truncate"), purse=purse, parallel=4)
    number = 0
    while True:
        texts = [
            f"the words of process {order['run']}, as many as usual, number {number + i}" for i in range(8)
        ]
        number += 8
        asked = [Asked(gateway, text) for text in texts]
        if not all(isinstance(one.result, Answer) for one in asked):
            break
        sys.stdout.write("answered\n")
        sys.stdout.flush()
    gateway.close()
    purse.close()
    model.close()


if __name__ == "__main__":
    main()
