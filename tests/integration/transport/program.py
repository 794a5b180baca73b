"""A server in a process of its own, for tests that send signals: `program.py DRAIN_S`.

It prints its port, then a line for each request of `/hold` that has begun; a line on its standard input releases them.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

from embatch.frontends.server.settings import ServeSettings
from embatch.frontends.server.transport.listening import listen
from embatch.frontends.server.transport.running import Server

released = asyncio.Event()


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    if scope["path"] == "/hold":
        say("begun")
        await released.wait()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def say(line: object) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    settings = ServeSettings(port=0, drain_s=float(sys.argv[1]))
    listener = listen(settings.host, settings.port)
    port = listener.getsockname()[1]

    def started() -> None:
        loop = asyncio.get_running_loop()

        def wait_for_line() -> None:
            if sys.stdin.readline():
                loop.call_soon_threadsafe(released.set)

        threading.Thread(target=wait_for_line, daemon=True).start()
        say(port)

    Server(app, settings).run_until_stopped(listener, started)


if __name__ == "__main__":
    main()
