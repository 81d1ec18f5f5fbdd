"""Readers that check every answer while the route changes under them (I8)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from embedmigrate import Collection, command, resolve
from embedmigrate.catalog import Catalog, indexes
from embedmigrate.collection import SearchResult
from embedmigrate.config import Settings
from tests.faults.project import Faulty

TOLERANCE = 1e-5
DEPTH = 5


@dataclass(frozen=True)
class Truth:
    """The only right answers, made without the serving path.

    Each model embeds the queries by itself, and brute force compares them with the vectors of the
    index that is the model's. Two models take turns: `models[0]` serves odd generations.
    """

    models: list[str]
    """Fingerprints."""
    indexes: dict[str, str]
    """Index -> fingerprint."""
    answers: dict[str, dict[str, list[tuple[str, float]]]]
    """Fingerprint -> query -> (id, score), best first."""

    @classmethod
    def of(cls, settings: Settings, models: Sequence[str], queries: Sequence[str]) -> Truth:
        """For a project in which both ``models`` have an index."""
        with Catalog(settings.catalog_url, create=False) as catalog, catalog.read() as connection:
            known = indexes.of_collection(connection, "articles")
        answers = {}
        for index in known:
            with (
                closing(settings.open_store("articles").reader(index.name)) as reader,
                closing(resolve.load_embedder(settings, index.model)) as embedder,
            ):
                ids = [state.id for state in reader.states()]
                vectors = reader.vectors([(id, 0) for id in ids])
                answers[index.fingerprint] = {
                    query: _best(embedder.embed_queries([query])[0] @ vectors.T, ids)
                    for query in queries
                }
        return cls(
            models=[resolve.pinned(settings, name).fingerprint for name in models],
            indexes={index.name: index.fingerprint for index in known},
            answers=answers,
        )

    @property
    def queries(self) -> list[str]:
        return list(self.answers[self.models[0]])

    def fault(self, query: str, result: SearchResult) -> str | None:
        """What is wrong with an answer: that index, model, generation and hits are one."""
        if not result.hits:
            return "empty"
        expected = self.answers[result.fingerprint][query]
        one = (
            self.indexes[result.index] == result.fingerprint
            and self.models[(result.generation - 1) % 2] == result.fingerprint
            and [hit.id for hit in result.hits] == [id for id, _ in expected]
            and np.allclose(
                [hit.score for hit in result.hits], [score for _, score in expected], atol=TOLERANCE
            )
        )
        return None if one else "mismatched"

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Truth:
        found: dict[str, Any] = json.loads(text)
        for lists in found["answers"].values():
            for query, answer in lists.items():
                lists[query] = [(id, score) for id, score in answer]
        return cls(**found)


def _best(scores: Any, ids: Sequence[str]) -> list[tuple[str, float]]:
    ranked = sorted(zip((-scores).tolist(), ids, strict=True))[: DEPTH + 1]
    margins = np.diff([score for score, _ in ranked])
    assert margins.min() > TOLERANCE, "a tie: choose another query"
    return [(id, -negated) for negated, id in ranked[:DEPTH]]


@dataclass
class Seen:
    """What one reader saw."""

    searches: int = 0
    errors: list[str] = field(default_factory=list)
    empty: int = 0
    mismatched: int = 0
    went_back: int = 0
    """Answers of an older generation than the one before."""
    longest_stall: float = 0.0
    """Longest search, in seconds."""
    generations: set[int] = field(default_factory=set)

    @property
    def faults(self) -> int:
        return len(self.errors) + self.empty + self.mismatched + self.went_back

    @property
    def generation(self) -> int:
        return max(self.generations, default=0)

    def to_json(self) -> str:
        return json.dumps({**vars(self), "generations": sorted(self.generations)})

    @classmethod
    def from_json(cls, text: str) -> Seen:
        found: Mapping[str, Any] = json.loads(text)
        return cls(**{**found, "generations": set(found["generations"])})


class Reader(threading.Thread):
    """Searches without pause until it is stopped, and checks every answer."""

    def __init__(self, articles: Collection, truth: Truth, pause: float = 0.0) -> None:
        super().__init__(daemon=True)
        self.seen = Seen()
        self._articles, self._truth, self._pause = articles, truth, pause
        self._over = threading.Event()

    def run(self) -> None:
        queries, last = self._truth.queries, 0
        while not self._over.wait(self._pause):
            query = queries[self.seen.searches % len(queries)]
            self.seen.searches += 1
            began = time.perf_counter()
            try:
                result = self._articles.search(query, k=DEPTH)
            except Exception as error:  # whatever it is: a reader must not see it
                self.seen.errors.append(f"{type(error).__name__}: {error}")
                continue
            self.seen.longest_stall = max(self.seen.longest_stall, time.perf_counter() - began)
            fault = self._truth.fault(query, result)
            self.seen.empty += fault == "empty"
            self.seen.mismatched += fault == "mismatched"
            self.seen.went_back += result.generation < last
            last = result.generation
            self.seen.generations.add(last)

    def stop(self) -> Seen:
        self._over.set()
        self.join()
        return self.seen


def switch(project: Faulty, number: int) -> None:
    """The ``number``-th switch: odd ones cut over, even ones roll back."""
    if number % 2:
        project.upgrade(again="the next round")
    else:
        command.rollback(project.settings, "articles", reason="the next round")
