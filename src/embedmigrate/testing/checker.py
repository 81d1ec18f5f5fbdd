"""What an index is, against what its source and the acknowledgements say that it must be."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from embedmigrate.config import Settings
from embedmigrate.testing.changes import Versions, expected, fields_of

SHOWN = 5
"""Ids that are named of each fault."""
_PAGE = 2000


@dataclass
class Findings:
    """What is wrong; ids of documents. Everything empty is as it must be."""

    lost: list[str] = field(default_factory=list)
    """Acknowledged, and not in the index."""
    resurrected: list[str] = field(default_factory=list)
    """In the index, and deleted, or never acknowledged."""
    stale: list[str] = field(default_factory=list)
    """In the index as they were before the last acknowledged change."""
    duplicate: list[str] = field(default_factory=list)
    """In the index more than once."""
    mixed: list[str] = field(default_factory=list)
    """With a vector of another space, or of another text."""
    other: list[str] = field(default_factory=list)
    """Damage, and documents that a search for their own text does not find, in words."""
    paid_twice: int = 0
    """Texts that a model was asked for again."""
    allowed: int = 0
    """How many of them kills account for: two batches each."""
    documents: int = 0
    """Documents that were looked at."""

    @property
    def good(self) -> bool:
        return not self.faults() and self.paid_twice <= self.allowed

    def faults(self) -> dict[str, int]:
        """Fault -> how often, for those that occur."""
        counts = {name: len(found) for name, found in asdict(self).items() if type(found) is list}
        return {name: count for name, count in counts.items() if count}

    def add(self, more: Findings) -> None:
        for name, found in vars(more).items():
            setattr(self, name, getattr(self, name) + found)

    def __str__(self) -> str:
        said = [
            f"{len(found)} {name} ({', '.join(found[:SHOWN])}{', …' * (len(found) > SHOWN)})"
            for name, found in vars(self).items()
            if type(found) is list and found
        ]
        if self.paid_twice > self.allowed:
            said.append(f"{self.paid_twice} texts paid twice, {self.allowed} allowed")
        return "; ".join(said) or f"{self.documents} documents as they must be"


def check(
    settings: Settings,
    collection: str,
    *,
    root: Path | None = None,
    index: str | None = None,
    tolerance: float = 1e-5,
) -> Findings:
    """Compare an index (by default the live one) with what a build from scratch would hold.

    Every document of the source is read and embedded again with the model of the index. ``root``
    is the folder of the acknowledgements that the source is held against. ``tolerance`` is how
    far a component of a vector may be off, for stores that round.
    """
    from embedmigrate import resolve
    from embedmigrate.command.project import Project

    findings = Findings()
    with Project(settings) as project:
        record = project.index_of(collection, index)
        with closing(settings.open_source(collection, record.spec.recipe)) as source:
            source.prepare()
            documents = {it.id: it for it in source.scan() if it.text}
        if root is not None:
            _hold_to(findings, documents, expected(root))
        with (
            closing(settings.open_store(collection).reader(record.container)) as reader,
            closing(resolve.load_embedder(settings, record.model)) as embedder,
        ):
            states: dict[str, Any] = {}
            for state in reader.states():
                if state.id in states:
                    findings.duplicate.append(state.id)
                states[state.id] = state
            held = sum(len(block) for block in reader.blocks())
            if held != len(states) + len(findings.duplicate):
                findings.other.append(f"{held} vectors of {len(states)} documents")
            findings.lost += sorted(documents.keys() - states.keys())
            findings.resurrected += sorted(states.keys() - documents.keys())
            both = [it for id, it in documents.items() if id in states]
            findings.stale += [
                it.id
                for it in both
                if (states[it.id].content_hash, states[it.id].metadata_hash)
                != (it.content_hash, it.metadata_hash)
            ]
            fresh = [it for it in both if states[it.id].content_hash == it.content_hash]
            for start in range(0, len(fresh), _PAGE):
                page = fresh[start : start + _PAGE]
                made = embedder.embed_documents([it.text for it in page])
                stored = reader.vectors([(it.id, 0) for it in page])
                apart = np.abs(made - stored).max(axis=1) > tolerance
                findings.mixed += [it.id for it, off in zip(page, apart, strict=True) if off]
            strange = [it for it in reader.stamps() if it.fingerprint != record.fingerprint]
            findings.mixed += [f"{it.vectors} vectors stamped {it.fingerprint}" for it in strange]
            findings.other += reader.problems()
            for it in fresh[:: max(1, len(fresh) // 10)]:
                hits = reader.search(embedder.embed_documents([it.text]), 1)[0]
                if not hits or hits[0].id != it.id:
                    findings.other.append(f"{it.id} is not found by its own text")
    findings.documents = len(documents)
    return findings


def _hold_to(
    findings: Findings, documents: Mapping[str, Any], must: Mapping[str, Versions]
) -> None:
    """The source itself against the acknowledgements."""
    findings.lost += sorted(must.keys() - documents.keys())
    findings.resurrected += sorted(documents.keys() - must.keys())
    for id in must.keys() & documents.keys():
        fields = fields_of(id, must[id])
        document = documents[id]
        if (
            not document.text.endswith(fields["text"])
            or document.metadata["topic"] != fields["topic"]
        ):
            findings.stale.append(id)


def check_retained(settings: Settings, collection: str) -> Findings:
    """The indexes that are kept: edits may wait in them, but they hold no deleted document."""
    from embedmigrate.catalog import indexes
    from embedmigrate.catalog.records import IndexState
    from embedmigrate.command.project import Project

    findings = Findings()
    with Project(settings) as project, project.catalog.read() as connection:
        retained = indexes.of_collection(connection, collection, IndexState.RETAINED)
    for index in retained:
        found = check(settings, collection, index=index.name)
        findings.resurrected += found.resurrected
        findings.duplicate += found.duplicate
        findings.mixed += found.mixed
        findings.other += found.other
    return findings


def paid_twice(log: Path) -> int:
    """Texts that a model was asked for again, by the log of ``asked``."""
    if not log.exists():
        return 0
    calls = map(json.loads, log.read_text("ascii").splitlines())
    asked = Counter(f"{model} {text}" for _, model, texts in calls for text in texts)
    return asked.total() - len(asked)


def texts_asked(log: Path, pids: Sequence[int] = ()) -> int:
    """Texts that these processes, by default all, asked a model for."""
    if not log.exists():
        return 0
    lines = map(json.loads, log.read_text("ascii").splitlines())
    return sum(len(texts) for pid, _, texts in lines if not pids or pid in pids)
