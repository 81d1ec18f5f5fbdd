"""``check --policy``: may this repository be merged? Asked without a catalog, a store or a model.

Everything is read from the configuration, the scripts, the pin files and the lock file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alembic.script import ScriptDirectory

from embedmigrate import resolve
from embedmigrate.command.checking import disagreements
from embedmigrate.config import Settings, locate_key
from embedmigrate.errors import ConfigError, EmbedMigrateError, Fork
from embedmigrate.migration import lockfile
from embedmigrate.migration.environment import Environment
from embedmigrate.migration.literal import find_not_literal
from embedmigrate.migration.recorder import RecordedStep, all_moves, find_forks

CHECKS = {
    "pinned": "every model is pinned, and configured as it was pinned",
    "one-head": "every collection has one line of revisions",
    "unchanged": "no applied script was changed",
    "literal": "scripts spell identity out",
    "declared": "the configuration is what the scripts end at",
}
_SETTINGS = (
    *("pooling", "normalize", "max_tokens", "special_tokens", "dimensions"),
    *("document_prompt", "query_prompt"),
)
"""Keys of ``[models.x]`` that are fields of the pinned model as they stand."""

_Reembeddings = Mapping[str, Sequence[RecordedStep]]


@dataclass(frozen=True)
class Finding:
    """One thing that keeps a repository from passing."""

    check: str
    message: str
    found: str
    expected: str
    next_step: str
    collection: str | None = None
    file: str | None = None
    """Relative to the folder of the configuration, where it lies below it."""
    line: int | None = None


def check_policy(settings: Settings, *, freeze: bool = False) -> dict[str, Any]:
    """Does the repository keep the rules? Needs no catalog, store, model or network.

    ``checks`` says of each rule whether it holds, ``findings`` why not, one entry a finding. With
    ``freeze`` the scripts that the lock file does not name are recorded first, as they stand;
    ``frozen`` lists them. Raises ``ConfigError`` when something cannot be loaded; its ``result`` is
    what was found until then, where ``holds`` is None for a rule that could not be checked.
    """
    inspection = _Inspection(settings)
    try:
        inspection.run(freeze=freeze)
    except EmbedMigrateError as error:
        error.result = inspection.result()
        raise
    return inspection.result()


class _Inspection:
    """Goes through the rules and keeps what it finds."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.findings: list[Finding] = []
        self.checked: list[str] = []
        self.frozen: list[str] = []
        self.reembeddings: _Reembeddings = {}

    def run(self, *, freeze: bool) -> None:
        settings = self.settings
        self._note("literal", _not_literal(settings))  # first: it executes nothing
        scripts = Environment(settings).scripts()
        if freeze:
            self.frozen = _freeze(settings, scripts)
        self._note("unchanged", _changed(settings, scripts))
        self.reembeddings = all_moves(scripts)
        forks = list(find_forks(scripts, self.reembeddings))
        self._note("one-head", _many_heads(settings, scripts, self.reembeddings, forks))
        self._note("pinned", _not_pinned(settings, self.reembeddings))
        forked = {name for name, _ in forks}
        self._note("declared", _declared_otherwise(settings, self.reembeddings, forked))

    def result(self) -> dict[str, Any]:
        failed = {finding.check for finding in self.findings}
        holds = {
            check: False if check in failed else True if check in self.checked else None
            for check in CHECKS
        }
        order = list(CHECKS)
        return {
            "schema": 1,
            "agrees": all(holds.values()),
            "checks": [
                {"check": check, "title": title, "holds": holds[check]}
                for check, title in CHECKS.items()
            ],
            "collections": [self._collection(name) for name in sorted(self.settings.collections)],
            "findings": [
                asdict(it) for it in sorted(self.findings, key=lambda it: order.index(it.check))
            ],
            "frozen": self.frozen,
        }

    def _note(self, check: str, findings: Iterable[Finding]) -> None:
        self.findings += findings
        self.checked.append(check)

    def _collection(self, name: str) -> dict[str, Any]:
        steps = self.reembeddings.get(name, [])
        last = steps[-1].move if steps else None
        return {
            "collection": name,
            "agrees": not any(finding.collection == name for finding in self.findings),
            "revision": steps[-1].revision if steps else None,
            "target": None if last is None else last.target.reference,
        }


def _not_literal(settings: Settings) -> Iterator[Finding]:
    for path in sorted((settings.script_location / "versions").glob("*.py")):
        if path.name.startswith((".#", "__init__")):
            continue  # not taken for a script
        for offence in find_not_literal(path):
            place = _place(settings, path)
            yield Finding(
                "literal",
                offence.message,
                offence.found,
                offence.expected,
                f"write it out in {place}, line {offence.line}",
                file=place,
                line=offence.line,
            )


def _freeze(settings: Settings, scripts: ScriptDirectory) -> list[str]:
    try:
        return lockfile.note(settings.script_location, scripts.walk_revisions())
    except OSError as error:
        raise ConfigError(
            f"{lockfile.FILE} cannot be written to {settings.script_location}: {error.strerror}",
            next_step="make the folder writable",
        ) from error


def _changed(settings: Settings, scripts: ScriptDirectory) -> Iterator[Finding]:
    file = _place(settings, settings.script_location / lockfile.FILE)
    for deviation in lockfile.compare(settings.script_location, scripts.walk_revisions()):
        if deviation.path is None:
            way_out = f"if it is applied nowhere any more, delete its line from {file}"
        else:
            way_out = (
                "a new revision says what should be otherwise. If the change means nothing, delete "
                f"its line from {file}, and embedmigrate check --policy --freeze"
            )
        yield Finding(
            "unchanged",
            deviation.message,
            deviation.found or "no script of that revision",
            deviation.recorded,
            f"restore the script from version control; {way_out}",
            file=file if deviation.path is None else _place(settings, deviation.path),
        )


def _many_heads(
    settings: Settings,
    scripts: ScriptDirectory,
    reembeddings: _Reembeddings,
    forks: Sequence[tuple[str, Fork]],
) -> Iterator[Finding]:
    forked = {name for name, _ in forks}
    for collection, fork in forks:
        yield Finding(
            "one-head",
            fork.message,
            str(fork.found),
            str(fork.expected),
            str(fork.next_step),
            collection=collection,
        )
    heads = scripts.get_revisions("heads")
    for name in sorted(settings.collections):
        if name not in reembeddings:
            yield Finding(
                "one-head",
                f"collection {name!r} has no first revision",
                f"no script in {_place(settings, scripts.versions)} makes its index",
                f'op.reembed("{name}", source=None, …)',
                f"embedmigrate revision --collection {name}",
                collection=name,
            )
        own = sorted(head.revision for head in heads if name in head.branch_labels)
        if len(own) > 1 and name not in forked:
            yield Finding(
                "one-head",
                f"the branch of collection {name!r} has {len(own)} heads",
                ", ".join(own),
                "one head",
                f"embedmigrate merge {' '.join(own)}",
                collection=name,
            )


def _not_pinned(settings: Settings, reembeddings: _Reembeddings) -> Iterator[Finding]:
    folder = _place(settings, settings.pins)
    for name, collection in sorted(settings.collections.items()):
        for model in dict.fromkeys((collection.model, *collection.also_accept)):
            if resolve.newest_pin(settings, model) is None:
                yield Finding(
                    "pinned",
                    f"model {model!r} of collection {name!r} is not pinned",
                    f"no pin file of it in {folder}",
                    f"{model}.<fingerprint>.json",
                    f"embedmigrate pin {model}, and commit the file",
                    collection=name,
                )
    for name, steps in sorted(reembeddings.items()):
        targets = {it.move.target: it.revision for it in reversed(steps) if it.move}
        for target, revision in targets.items():
            if not any(settings.pins.glob(f"*.{target.fingerprint}.json")):
                yield Finding(
                    "pinned",
                    f"the model that revision {revision} moves to has no pin file",
                    f"nothing in {folder} is pinned as {target.reference}",
                    f"{target.name}.{target.fingerprint}.json, or the same under another name",
                    "restore the pin file from version control",
                    collection=name,
                )
    for name in sorted(settings.models):
        yield from _configured_unlike_pinned(settings, name)


def _configured_unlike_pinned(settings: Settings, name: str) -> Iterator[Finding]:
    config, pin = settings.model(name), resolve.newest_pin(settings, name)
    for field in _SETTINGS if pin is not None else ():
        stated = getattr(config, field, None) if field in config.model_fields_set else None
        pinned = getattr(pin, field)
        if stated not in (None, pinned):
            prefix = ("tool", "embedmigrate") if settings.path.name == "pyproject.toml" else ()
            yield Finding(
                "pinned",
                f"model {name!r} is configured otherwise than it was pinned",
                f"{field} = {stated!r}",
                f"{field} = {pinned!r}, or nothing",
                f"set it back; if the change is meant, embedmigrate pin {name}, and write a "
                "revision",
                file=settings.path.name,
                line=locate_key(settings.path.read_text("utf-8"), (*prefix, "models", name, field)),
            )


def _declared_otherwise(
    settings: Settings, reembeddings: _Reembeddings, forked: set[str]
) -> Iterator[Finding]:
    for name, configured in sorted(settings.collections.items()):
        steps = reembeddings.get(name, [])
        last = steps[-1].move if steps else None
        if last is None or name in forked:
            continue
        wanted = resolve.newest_pin(settings, configured.model)
        factory = getattr(configured.store, "factory", None)  # not every kind of store has one
        for it in disagreements(settings, name, steps, wanted, factory):
            yield Finding(
                "declared",
                f"the {it.what} of collection {name!r} is configured otherwise than in the scripts",
                it.configured,
                f"{it.scripted}, where revision {steps[-1].revision} ends",
                f"embedmigrate revision --collection {name}, or set the configuration back",
                collection=name,
            )


def _place(settings: Settings, path: Path | str) -> str:
    path = Path(path)
    return str(path.relative_to(settings.root) if path.is_relative_to(settings.root) else path)
