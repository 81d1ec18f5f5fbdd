"""The metrics file of a command: written every few seconds, and when it ends."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from prometheus_client import Metric, write_to_textfile
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from embedmigrate.config import Settings
from embedmigrate.engine.job import Reporter, Silent
from embedmigrate.errors import EmbedMigrateError, UsageError
from embedmigrate.logs import say
from embedmigrate.metrics.phases import Phases
from embedmigrate.metrics.samples import (
    MEANINGS,
    PREFIX,
    Sample,
    kept_of,
    of_collections,
    of_command,
)

EVERY_SECONDS = 5.0
_PATIENCE_SECONDS = 2.0

_log = logging.getLogger(__name__)


class MetricsFile:
    """Metrics of a project, kept in a file while a command is at work. A context manager.

    Several commands may share the file: it holds the last of each name. A file that cannot be
    written is logged once, and stops nothing.
    """

    def __init__(
        self, settings: Settings, path: Path, command: str, reporter: Reporter | None = None
    ) -> None:
        _refuse_foreign(path)
        self._settings, self._path, self._command = settings, path, command
        self._phases = Phases(reporter or Silent())
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, name="metrics", daemon=True)
        self._complained = False

    @property
    def reporter(self) -> Reporter:
        """For the command: it measures the phases."""
        return self._phases

    def start(self) -> None:
        """Write now, and every few seconds from now on."""
        self._write(None)
        self._thread.start()

    def end(self, exit_code: int) -> None:
        """Write for the last time: the command ended with ``exit_code``."""
        self._over.set()
        self._thread.join()
        self._phases.close()
        self._write(exit_code)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        failed = error.exit_code if isinstance(error, EmbedMigrateError) else 1
        self.end(0 if error is None else failed)

    def _keep_writing(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            self._write(None)

    def _write(self, exit_code: int | None) -> None:
        try:
            now = of_collections(self._settings)
            now += of_command(self._command, self._phases.seconds(), exit_code)
            with _alone(self._path.absolute().parent):
                kept = kept_of(_read(self._path), self._command)
                samples = {sample.key: sample for sample in (*kept, *now)}
                # to a temporary file beside it, which then takes its place
                write_to_textfile(str(self._path), _Samples(samples.values()))
        except Exception as error:  # of whatever kind: metrics stop nothing
            if not self._complained:
                self._complained = True
                said = error.strerror if isinstance(error, OSError) else type(error).__name__
                message = f"metrics cannot be written to {self._path}: {said}"
                say(_log, logging.WARNING, "metrics_not_written", message, {})
                self._phases.note(message)


class _Samples(Collector):
    """Samples as families. They come from here alone: no registry of the process is asked."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._families = {
            name: GaugeMetricFamily(PREFIX + name, said) for name, said in MEANINGS.items()
        }
        for sample in samples:
            family = self._families[sample.name]
            family.add_sample(PREFIX + sample.name, dict(sample.labels), float(sample.value))

    def collect(self) -> Iterator[Metric]:
        return (family for family in self._families.values() if family.samples)


def _read(path: Path) -> list[Sample]:
    """What the file says, if it is there; nothing where somebody broke it."""
    if not path.exists():
        return []
    text = path.read_text("utf-8", "replace")
    try:
        families = list(text_string_to_metric_families(text))
    except Exception:  # the parser raises whatever it stumbles on
        return []
    return [
        Sample(sample.name.removeprefix(PREFIX), sample.labels, sample.value)
        for family in families
        for sample in family.samples
        if sample.name.removeprefix(PREFIX) in MEANINGS
    ]


def _refuse_foreign(path: Path) -> None:
    """``UsageError`` for a file that is there and that this program did not write."""
    start = f"# HELP {PREFIX}".encode()
    with suppress(OSError), path.open("rb") as file:
        if (found := file.read(len(start))) and found != start:
            raise UsageError(
                f"{path} holds something else than metrics of embedmigrate",
                expected="a new file, or one that it wrote",
                next_step="name another file, for example embedmigrate.prom",
            )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other commands from writing the same file in between; go on after a while all the same.

    The folder itself is locked, so that no other file appears in it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)
