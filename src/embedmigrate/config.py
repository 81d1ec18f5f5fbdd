"""Configuration: ``embedmigrate.toml``, or ``[tool.embedmigrate]`` in ``pyproject.toml``.

Everything is validated before anything is done; an error names the key, the line and what was
expected. ``${NAME}`` in a string is replaced from the environment, so that no secret and no path
of one machine stands in the file. Configuration says where things lie; identity is in the scripts.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from embedmigrate.context import AdapterContext
from embedmigrate.embedders.base import Embedder, ModelConfig
from embedmigrate.errors import ConfigError, UnknownCollection, UnpinnedReference
from embedmigrate.hooks.config import HooksConfig
from embedmigrate.models import Chunker, Recipe
from embedmigrate.models.references import ALLOW_UNPINNED
from embedmigrate.registry import adapter
from embedmigrate.sources.base import Source, SourceConfig
from embedmigrate.stores.base import Store, StoreConfig
from embedmigrate.throttling import Throttling
from embedmigrate.validation import first_fault

FILE_NAME = "embedmigrate.toml"
DEFAULT_CATALOG = "sqlite:///catalog.db"
ROUTE_CACHE_SECONDS = 1.0
"""How old an application's route may be where the catalog cannot say that nothing changed."""
READERS_LEAVE = 10
"""An index is kept at least so many times as long as the slowest reader may still need it."""
ENVIRONMENT_VARIABLE = "EMBEDMIGRATE_CONFIG"

_M = TypeVar("_M", bound=BaseModel)

_COLLECTION = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_TABLES = ("collections", "models", "hooks")
"""The tables beside ``[embedmigrate]``."""
_SECRET_CHARACTERS = 6
"""A shorter value from the environment is no secret, and would hide ordinary words."""
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_PASSWORD = re.compile(r"://[^/?#@:\s]*:([^/?#@\s]+)@")
"""In a URL, behind the user."""


class _General(BaseModel):
    """The ``[embedmigrate]`` table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    script_location: str = "migrations"
    catalog: str | None = Field(default=None, repr=False)  # may hold a password
    """URL of the catalog; by default the database of the store, else ``catalog.db`` here."""
    work_dir: str = ".embedmigrate"
    batch_size: int = Field(default=512, ge=1, le=512)
    """Chunks a batch: the checkpoint unit and the window that is sorted by length."""
    witness_batches: int = Field(default=64, ge=1)
    """Batches between two checks of the witness: they count when the second one passes."""
    proof_sample: int = Field(default=459, ge=1)
    """Stored vectors that a proof embeds again: so many find a mix of 1 % with 99 % probability."""
    lease_seconds: float = Field(default=30.0, ge=1)
    """After so long without a heartbeat another runner may take a collection over."""
    call_seconds: float = Field(default=600.0, gt=0)
    """How long a model may take for one call of at most 64 texts before it counts as hanging."""
    away_seconds: float = Field(default=300.0, ge=0)
    """How long a migration waits for a database server that does not answer before it gives up."""
    retain_seconds: float = Field(default=7 * 24 * 3600.0, ge=0)
    """Grace before ``contract`` may drop an index that is no longer live."""
    switch_grace: float = Field(default=30.0, gt=0)
    """How long an application may serve the old pair while it opens a new one, in seconds."""
    metrics_file: str | None = None
    """Where working commands write their metrics, unless they are told another place."""

    @model_validator(mode="after")
    def _readers_can_leave(self) -> Self:
        least = READERS_LEAVE * (ROUTE_CACHE_SECONDS + self.switch_grace)
        if self.retain_seconds < least:
            raise ValueError(
                f"retain_seconds is at least {least:g}: {READERS_LEAVE} times what an application "
                f"may take to notice a switch and follow it (switch_grace {self.switch_grace:g} s)"
            )
        return self


class _Collection(BaseModel):
    """A ``[collections.x]`` table; source and store are parsed by their adapters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    also_accept: tuple[str, ...] = ()
    source: dict[str, Any]
    store: dict[str, Any]
    joiner: str = " "
    chunker: Chunker | None = None
    """How a long text is cut; None: it is embedded as one."""
    changes: Literal["application"] | None = None
    """That the application itself says what it changes (``Collection.changed``, ``.deleted``)."""
    recall_target: float = Field(default=0.9, gt=0, le=1)
    """Share of the exact top 10 that an ANN index must find before it may go live."""
    witness_at_open: bool = False
    """Whether an application checks the witness of its model before it starts."""
    witness_every: float = Field(default=0.0, ge=0)
    """Seconds between two checks of the witness in a running application; 0: never."""
    on_drift: Literal["refuse", "serve"] = "refuse"
    """What an application does when its model is not itself any more."""
    strict_cut_seconds: float | None = Field(default=None, gt=0)
    """For how long the writers of a PostgreSQL table are held off at a cut-over, at most; None:
    they are not, and what they commit in that moment follows a moment later."""
    cutover: Literal["auto", "manual"] = "auto"
    """Whether ``upgrade`` switches what it made ready, or leaves that to ``cutover``."""
    throttle: Throttling | None = None
    hooks: HooksConfig | None = None


@dataclass(frozen=True)
class CollectionSettings:
    """One collection as configured."""

    name: str
    model: str
    also_accept: tuple[str, ...]
    source: SourceConfig
    store: StoreConfig
    joiner: str
    recall_target: float
    witness_at_open: bool = False
    witness_every: float = 0.0
    on_drift: Literal["refuse", "serve"] = "refuse"
    changes: Literal["application"] | None = None
    strict_cut_seconds: float | None = None
    cutover: Literal["auto", "manual"] = "auto"
    throttle: Throttling | None = None
    hooks: HooksConfig | None = None
    chunker: Chunker | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe that ``revision`` would write today."""
        return Recipe(text=self.source.text, joiner=self.joiner, chunker=self.chunker)


@dataclass(frozen=True)
class Settings:
    """A whole configuration file, validated."""

    path: Path
    general: _General
    collections: Mapping[str, CollectionSettings]
    models: Mapping[str, ModelConfig]
    hooks: HooksConfig = field(default_factory=HooksConfig)
    substituted: frozenset[str] = field(default=frozenset(), repr=False)
    """What came from the environment: it may be secret, and is masked where others quote it."""

    @property
    def root(self) -> Path:
        """The folder that relative paths start from: where the file lies."""
        return self.path.parent

    @cached_property
    def script_location(self) -> Path:
        return (self.root / self.general.script_location).resolve()

    @property
    def pins(self) -> Path:
        return self.script_location / "models"

    @property
    def work_dir(self) -> Path:
        return self.root / self.general.work_dir

    @cached_property
    def catalog_url(self) -> str:
        """The catalog's URL with a relative SQLite path made absolute."""
        prefix = "sqlite:///"
        url = self.general.catalog or self._database_of_stores or DEFAULT_CATALOG
        if url.startswith(prefix) and url != prefix and not url.startswith(prefix + ":memory:"):
            return prefix + str((self.root / url.removeprefix(prefix)).resolve())
        return url

    @property
    def _database_of_stores(self) -> str | None:
        return next(iter(self.databases), None)

    @property
    def databases(self) -> tuple[str, ...]:
        """The databases that indexes are in."""
        found = (collection.store.database for collection in self.collections.values())
        return tuple(dict.fromkeys(url for url in found if url is not None))

    @property
    def far_stores(self) -> tuple[str, ...]:
        """Collections whose indexes other machines use, while the catalog is a file of this one."""
        if not self.catalog_url.startswith("sqlite"):
            return ()
        return tuple(name for name, it in self.collections.items() if it.store.remote)

    def collection(self, name: str) -> CollectionSettings:
        """The settings of a collection; ``UnknownCollection`` lists what there is."""
        try:
            return self.collections[name]
        except KeyError:
            raise UnknownCollection(
                f"there is no collection {name!r} in {self.path}",
                found=name,
                expected=", ".join(sorted(self.collections)) or "none is configured",
                next_step=f"add [collections.{name}], or correct the name",
            ) from None

    def model(self, name: str) -> ModelConfig:
        """The declaration of a model; ``ConfigError`` lists what there is."""
        try:
            return self.models[name]
        except KeyError:
            raise ConfigError(
                f"there is no model {name!r} in {self.path}",
                found=name,
                expected=", ".join(sorted(self.models)) or "none is configured",
                next_step=f"add [models.{name}], or correct the name",
            ) from None

    def context(self, collection: str) -> AdapterContext:
        return AdapterContext(root=self.root, work_dir=self.work_dir, collection=collection)

    def open_source(self, collection: str, recipe: Recipe) -> Source:
        """The source of a collection as its adapter makes it: the whole texts of ``recipe``."""
        config, context = self.collection(collection).source, self.context(collection)
        source: Source = adapter("sources", config.kind)(config, recipe.whole, context)
        return source

    def open_store(self, collection: str) -> Store:
        config = self.collection(collection).store
        store: Store = adapter("stores", config.kind)(config, self.context(collection))
        return store

    def embedder_class(self, name: str) -> type[Embedder]:
        cls: type[Embedder] = adapter("embedders", self.model(name).provider)
        return cls


def find_config(start: Path | None = None) -> Path:
    """The configuration file: ``$EMBEDMIGRATE_CONFIG``, else the first found going upwards."""
    if named := os.environ.get(ENVIRONMENT_VARIABLE):
        return Path(named)
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
        project = folder / "pyproject.toml"
        if project.is_file() and b"[tool.embedmigrate" in project.read_bytes():
            return project
    raise ConfigError(
        f"no {FILE_NAME} in {start} or above it",
        expected=f"{FILE_NAME}, or [tool.embedmigrate] in pyproject.toml",
        next_step="embedmigrate init migrations",
    )


def load_settings(
    path: Path | str | None = None, *, allow_unpinned: bool = False, require_pins: bool = True
) -> Settings:
    """Read and validate a configuration file (by default the one that ``find_config`` finds).

    ``UnpinnedReference`` for a model that is named in a way that can change its meaning, and for
    one that a collection uses and that was never pinned (I19). ``allow_unpinned`` is for what pins
    models; without ``require_pins`` a model may lack its pin file, for what reports that itself.
    """
    path = Path(path) if path is not None else find_config()
    try:
        text = path.read_text("utf-8")
        document = tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(
            f"configuration file {path} does not exist", next_step="embedmigrate init migrations"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"configuration file {path} cannot be read: {error}") from error
    prefix: tuple[str, ...] = ()
    if path.name == "pyproject.toml":
        document = document.get("tool", {}).get("embedmigrate", {})
        prefix = ("tool", "embedmigrate")
        general = {k: v for k, v in document.items() if k not in _TABLES}
        document = {
            "embedmigrate": general,
            **{k: v for k, v in document.items() if k in _TABLES},
        }
    context = {ALLOW_UNPINNED: allow_unpinned}
    settings = _Parser(path.resolve(), text, prefix, context).parse(document)
    if require_pins and not allow_unpinned:
        _require_pins(settings)
    return settings


def _require_pins(settings: Settings) -> None:
    """Looks for the files and at nothing in them: whoever uses a model reads its pin."""
    for collection in settings.collections.values():
        for name in (collection.model, *collection.also_accept):
            if not any(settings.pins.glob(f"{name}.*.json")):
                raise UnpinnedReference(
                    f"model {name!r} of collection {collection.name!r} is not pinned",
                    found=f"no pin file in {settings.pins}",
                    expected=f"{name}.<fingerprint>.json",
                    next_step=f"embedmigrate pin {name}",
                )


class _Parser:
    """Turns the TOML document into ``Settings`` and knows in which line each key stands."""

    def __init__(
        self, path: Path, text: str, prefix: tuple[str, ...], context: Mapping[str, Any]
    ) -> None:
        self.path, self.text, self.prefix, self.context = path, text, prefix, dict(context)
        self.substituted: set[str] = set()

    def parse(self, document: dict[str, Any]) -> Settings:
        for key in document:
            if key not in ("embedmigrate", *_TABLES):
                raise self.error(
                    (key,),
                    "unknown table",
                    "[embedmigrate], [hooks], [collections.NAME] or [models.NAME]",
                )
        document = self.expand(document, ())
        general = self.validate(_General, document.get("embedmigrate", {}), ("embedmigrate",))
        models = {
            name: self.by_adapter("embedders", "provider", table, ("models", name))
            for name, table in self.tables(document, "models", _MODEL)
        }
        collections = {}
        for name, table in self.tables(document, "collections", _COLLECTION):
            collections[name] = self.collection(name, table, models)
        hooks = self.validate(HooksConfig, document.get("hooks", {}), ("hooks",))
        settings = Settings(
            self.path, general, collections, models, hooks, frozenset(self.substituted)
        )
        if general.catalog is None and len(settings.databases) > 1:
            raise self.error(
                ("embedmigrate", "catalog"),
                "missing, and the collections' indexes are in different databases",
                "the URL of the one database that is to hold the catalog",
            )
        return settings

    def collection(
        self, name: str, table: dict[str, Any], models: Mapping[str, ModelConfig]
    ) -> CollectionSettings:
        where = ("collections", name)
        parsed = self.validate(_Collection, table, where)
        for key, wanted in (("model", (parsed.model,)), ("also_accept", parsed.also_accept)):
            for model in wanted:
                if model not in models:
                    raise self.error(
                        (*where, key),
                        f"there is no model {model!r}",
                        f"one of {', '.join(sorted(models)) or '[models.NAME]'}",
                    )
        return CollectionSettings(
            name=name,
            model=parsed.model,
            also_accept=parsed.also_accept,
            source=self.by_adapter("sources", "kind", parsed.source, (*where, "source")),
            store=self.by_adapter("stores", "kind", parsed.store, (*where, "store")),
            joiner=parsed.joiner,
            chunker=parsed.chunker,
            recall_target=parsed.recall_target,
            witness_at_open=parsed.witness_at_open,
            witness_every=parsed.witness_every,
            on_drift=parsed.on_drift,
            changes=parsed.changes,
            strict_cut_seconds=parsed.strict_cut_seconds,
            cutover=parsed.cutover,
            throttle=parsed.throttle,
            hooks=parsed.hooks,
        )

    def tables(
        self, document: dict[str, Any], key: str, name_pattern: re.Pattern[str]
    ) -> list[tuple[str, dict[str, Any]]]:
        tables = document.get(key, {})
        if not isinstance(tables, dict):
            raise self.error((key,), "not a table", f"[{key}.NAME]")
        for name, table in tables.items():
            if not name_pattern.fullmatch(name):
                raise self.error(
                    (key, name),
                    f"the name {name!r} cannot be used",
                    f"a name that matches {name_pattern.pattern}",
                )
            if not isinstance(table, dict):
                raise self.error((key, name), "not a table", f"[{key}.{name}]")
        return list(tables.items())

    def by_adapter(
        self, group: str, discriminator: str, table: dict[str, Any], where: tuple[str, ...]
    ) -> Any:
        chosen = table.get(discriminator)
        if not isinstance(chosen, str):
            raise self.error(
                (*where, discriminator),
                "missing",
                f'{discriminator} = "…", for example {discriminator} = '
                + {"sources": '"jsonl"', "stores": '"faiss"'}.get(group, '"onnx"'),
            )
        try:
            config_class = adapter(group, chosen).Config
        except ConfigError as error:
            raise self.error((*where, discriminator), error.message, error.expected) from error
        return self.validate(config_class, table, where)

    def validate(self, cls: type[_M], table: dict[str, Any], where: tuple[str, ...]) -> _M:
        try:
            return cls.model_validate(table, context=self.context)
        except ValidationError as error:
            fault = first_fault(error)
            key = (*where, *fault.key)
            if fault.unpinned:
                raise UnpinnedReference(
                    f"{self.place(key)}: {fault.message}",
                    next_step=f"edit {self.path}, then embedmigrate pin {where[-1]}"
                    if "repo" not in table
                    else f"embedmigrate pin {where[-1]} says which commit to write there",
                ) from None
            expected = "one of " + ", ".join(sorted(cls.model_fields))
            raise self.error(key, fault.message, expected if fault.unknown_key else None) from None

    def expand(self, value: Any, where: tuple[str, ...]) -> Any:
        if isinstance(value, dict):
            return {key: self.expand(item, (*where, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.expand(item, where) for item in value]
        if not isinstance(value, str):
            return value
        if (password := _PASSWORD.search(value)) and not _VARIABLE.search(password[1]):
            raise self.error(
                where, "a password stands in the file", "one from the environment: ${NAME}"
            )

        def from_environment(match: re.Match[str]) -> str:
            try:
                value = os.environ[match[1]]
            except KeyError:
                raise self.error(
                    where, f"environment variable {match[1]} is not set", f"export {match[1]}=…"
                ) from None
            if len(value) >= _SECRET_CHARACTERS:
                self.substituted.add(value)
            return value

        return _VARIABLE.sub(from_environment, value)

    def error(self, key: tuple[str, ...], message: str, expected: object = None) -> ConfigError:
        return ConfigError(
            f"{self.place(key)}: {message}", expected=expected, next_step=f"edit {self.path}"
        )

    def place(self, key: tuple[str, ...]) -> str:
        """File, line and key, for an error."""
        line = locate_key(self.text, (*self.prefix, *key))
        where = f"{self.path.name}, line {line}" if line else self.path.name
        return f"{where}: {'.'.join(key)}"


_HEADER = re.compile(r"^\s*\[{1,2}\s*([^\]]+?)\s*\]{1,2}\s*(?:#.*)?$")
_ASSIGNMENT = re.compile(r"^\s*([A-Za-z0-9_.\"'-]+)\s*=")
_PART = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([^.\s]+))\s*(?:\.|$)""")


def locate_key(text: str, key: tuple[str, ...]) -> int | None:
    """Line (from 1) of the longest prefix of ``key`` that stands in a TOML text, or None.

    ``tomllib`` keeps no positions. This reads table headers and assignments only, which finds the
    line a person has to look at; a key of an inline table is found at the line of its owner.
    """
    best_line, best_length = None, 0
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = _split_key(header[1])
            candidate = table
        elif assignment := _ASSIGNMENT.match(line):
            candidate = (*table, *_split_key(assignment[1]))
        else:
            continue
        length = min(len(key), len(candidate))
        if key[:length] == candidate[:length] and length > best_length:
            best_line, best_length = number, length
    return best_line


def _split_key(dotted: str) -> tuple[str, ...]:
    return tuple(double or single or bare for double, single, bare in _PART.findall(dotted))
