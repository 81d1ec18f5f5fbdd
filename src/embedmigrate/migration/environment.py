"""The Alembic side of a project: its Config, its scripts, and what ``env.py`` runs."""

from __future__ import annotations

import io
import sys
import threading
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, TextIO

from alembic import context as alembic_context
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.script.revision import CycleDetected, RevisionError
from alembic.util.exc import CommandError
from pydantic import ValidationError

from embedmigrate.catalog import Catalog
from embedmigrate.config import Settings
from embedmigrate.errors import (
    ConfigError,
    EmbedMigrateError,
    ScriptError,
    UnknownRevision,
    UsageError,
)
from embedmigrate.migration.operations import HANDLER, Handler

VERSION_TABLE = "embedmigrate_version"
MAX_REVISION_ID = 32
"""Width of Alembic's version column; longer ids fail on PostgreSQL, and only after the work."""

_ENVIRONMENT = "embedmigrate_environment"
_ONE_AT_A_TIME = threading.RLock()


class Environment:
    """What one Alembic command runs in; run it inside ``script_errors``."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog | None = None,
        *,
        handler: Handler | None = None,
        on_step: Callable[[Any], None] | None = None,
        stdout: TextIO | None = None,
        attributes: dict[str, Any] | None = None,
    ) -> None:
        self.settings, self.catalog, self.handler = settings, catalog, handler
        self.on_step = on_step
        self.config = _ProjectConfig(settings, stdout, {_ENVIRONMENT: self, **(attributes or {})})

    def scripts(self) -> ScriptDirectory:
        """The script directory; every script is loaded and checked once."""
        return load_scripts(self.config, self.settings)

    def run(self) -> None:
        """What ``env.py`` calls: run the current command against the catalog.

        Each step is a transaction of its own: a later step that fails must not undo a cut-over
        that readers have seen.
        """
        options: dict[str, Any] = {
            "version_table": VERSION_TABLE,
            "version_table_schema": None if self.catalog is None else self.catalog.schema,
            "transaction_per_migration": True,
            "transactional_ddl": True,  # the catalog begins its own transactions, also for DDL
            HANDLER: self.handler,
        }
        if alembic_context.is_offline_mode():
            alembic_context.configure(
                dialect_name="sqlite" if self.catalog is None else self.catalog.engine.dialect.name,
                literal_binds=True,
                **options,
            )
            with alembic_context.begin_transaction():
                alembic_context.run_migrations()
            return
        assert self.catalog is not None
        with self.catalog.translated(), self.catalog.engine.connect() as connection:
            alembic_context.configure(connection=connection, **options)
            context = alembic_context.get_context()
            steps_of = context._migrations_fn
            if self.on_step is not None and steps_of is not None:
                context._migrations_fn = self._announced(steps_of)
            with alembic_context.begin_transaction():
                alembic_context.run_migrations()
            if connection.in_transaction():
                connection.commit()  # a stamp or a new version table

    def _announced(self, steps_of: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        def steps(heads: Any, context: Any) -> Iterator[Any]:
            for step in steps_of(heads, context):
                assert self.on_step is not None
                self.on_step(step)
                yield step

        return steps


def run_environment() -> None:
    """Called by a project's ``env.py``."""
    environment = alembic_context.config.attributes.get(_ENVIRONMENT)
    if environment is None:
        # alembic prints its own kind of error without a traceback
        raise CommandError(
            "these scripts belong to embedmigrate and cannot be run by alembic itself; "
            "next: embedmigrate upgrade"
        )
    environment.run()


class _ProjectConfig(Config):
    """An Alembic Config that reads ``embedmigrate.toml`` instead of ``alembic.ini``."""

    def __init__(
        self, settings: Settings, stdout: TextIO | None, attributes: dict[str, Any]
    ) -> None:
        super().__init__(
            stdout=stdout or io.StringIO(),
            output_buffer=stdout,
            cmd_opts=Namespace(quiet=stdout is None, x=[]),
            attributes=attributes,
        )
        location = str(settings.script_location).replace("%", "%%")
        self.set_main_option("script_location", location)
        self.set_main_option("path_separator", "os")

    def get_template_directory(self) -> str:
        return str(template_directory())


def template_directory() -> Path:
    """Where the migration templates lie: beside the package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "migrations_template", package.parents[1] / "migrations_template"):
        if folder.is_dir():
            return folder
    raise ConfigError(
        "the migration templates are not installed",
        expected=str(package / "migrations_template"),
        next_step="install embedmigrate again",
    )


def load_scripts(config: Config, settings: Settings) -> ScriptDirectory:
    """Load every script; ``ScriptError`` names the one that cannot be loaded."""
    if not (settings.script_location / "versions").is_dir():
        raise ConfigError(
            f"there are no migration scripts in {settings.script_location}",
            expected="a folder that init made",
            next_step=f"embedmigrate init {settings.general.script_location}",
        )
    with script_errors(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Revision .* is not present", UserWarning)
        warnings.filterwarnings("error", "Revision .* is present more than once", UserWarning)
        scripts = ScriptDirectory.from_config(config)
        try:
            revisions = list(scripts.walk_revisions())
        except KeyError as error:  # Alembic looks a missing parent up in a plain dict
            if _place_in_script(error) is not None:
                raise
            raise ScriptError(
                f"a migration script names a parent that does not exist: {error.args[0]!r}",
                found=f"down_revision or depends_on {error.args[0]!r}",
                expected="the id of a script in the same folder",
                next_step="restore the missing script, or correct the reference",
            ) from None
    for script in revisions:
        if len(script.revision) > MAX_REVISION_ID:
            raise ScriptError(
                f"revision id {script.revision!r} is too long",
                found=f"{len(script.revision)} characters in {script.path}",
                expected=f"at most {MAX_REVISION_ID}",
                next_step="shorten the id in the script and in those that name it",
            )
    return scripts


@contextmanager
def script_errors() -> Iterator[None]:
    """Turn what Alembic and script files raise into errors with a contracted exit code.

    One thread at a time: Alembic's contexts belong to the process. What does not come out of a
    script is a fault of this program, and passes.
    """
    try:
        with _ONE_AT_A_TIME, redirect_stderr(io.StringIO()):
            yield
    except EmbedMigrateError:
        raise
    except (CommandError, RevisionError, UserWarning) as error:
        raise _translated(error) from error
    except Exception as error:
        place = _place_in_script(error)
        if place is None:
            raise
        raise ScriptError(
            f"a migration script raises {type(error).__name__}: {place}",
            found=_first_line(error),
            next_step="correct the script",
        ) from error


def _translated(error: Exception) -> EmbedMigrateError:
    text, cause = str(error), error.__cause__
    if "Path doesn't exist" in text or "Can't find Python file" in text:
        return ConfigError(text, next_step="embedmigrate init migrations")
    if (
        isinstance(error, UserWarning)
        or isinstance(cause, CycleDetected)
        or "Could not determine revision id" in text
    ):
        return ScriptError(text, next_step="correct the scripts")
    if "editor" in text:
        return UsageError(text, next_step="set EDITOR to the editor that you use")
    if text.startswith(("Ambiguous", "Multiple head")):
        return UnknownRevision(text, next_step="name a branch, for example COLLECTION@head")
    return UnknownRevision(
        text,
        found=cause if isinstance(cause, RevisionError) else None,
        next_step="embedmigrate history, or embedmigrate heads",
    )


def _place_in_script(error: Exception) -> str | None:
    """File and line of the script that ``error`` came out of, if it came out of one.

    Alembic runs scripts, and ``env.py``, as modules that it does not enter in ``sys.modules``.
    What they call of this program is not theirs.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}, line {error.lineno}"
    place, trace = None, error.__traceback__
    while trace is not None:
        module = trace.tb_frame.f_globals
        if "__file__" in module and module.get("__name__") not in sys.modules:
            place = f"{Path(module['__file__']).name}, line {trace.tb_lineno}"
        elif module.get("__name__", "").startswith("embedmigrate."):
            place = None
        trace = trace.tb_next
    return place


def _first_line(error: Exception) -> str | None:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return ": ".join((error.title, *map(str, first["loc"]), first["msg"]))
    return next(iter(str(error).splitlines()), None)
