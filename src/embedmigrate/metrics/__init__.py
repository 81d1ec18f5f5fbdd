"""Metrics for Prometheus: a file in its text format, for the textfile collector of node_exporter.

with metrics_file(settings, "/var/lib/node_exporter/articles.prom", "nightly") as metrics:
    command.upgrade(settings, reporter=metrics.reporter)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from embedmigrate.errors import MissingExtra

if TYPE_CHECKING:
    from embedmigrate.config import Settings
    from embedmigrate.engine.job import Reporter
    from embedmigrate.metrics.file import MetricsFile


def metrics_file(
    settings: Settings, path: Path | str, command: str, reporter: Reporter | None = None
) -> MetricsFile:
    """The metrics file at ``path`` (relative to here), for the work of ``command``.

    ``reporter`` is who hears of the work besides. Raises ``MissingExtra`` where prometheus-client
    is not installed, ``UsageError`` for a file that is there and holds something else.
    """
    try:
        from embedmigrate.metrics.file import MetricsFile
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "prometheus_client":
            raise
        raise MissingExtra("a metrics file", "metrics") from None
    return MetricsFile(settings, Path(path), command, reporter)
