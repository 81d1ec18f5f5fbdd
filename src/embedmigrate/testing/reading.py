"""A reader that checks every answer while the route changes under it (I8)."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from embedmigrate.testing.changes import Versions, fields_of
from embedmigrate.testing.subject import COLLECTION, Subject

_OFF = 1e-3
"""How far a text's similarity to itself may be from 1."""

_PAUSE = 0.0005
"""Seconds between two searches, so that a reader leaves others some of the processor."""


@dataclass
class Seen:
    """What a reader saw. Texts that nobody changes must be found by themselves, in every answer."""

    searches: int = 0
    errors: list[str] = field(default_factory=list)
    empty: int = 0
    mismatched: int = 0
    """Another document, another score, or an index that is not the model's."""
    went_back: int = 0
    """Answers of an older generation than the one before."""
    longest_pause: float = 0.0
    """Longest search, in seconds."""
    generations: int = 0

    @property
    def faults(self) -> int:
        return len(self.errors) + self.empty + self.mismatched + self.went_back


def search(subject: Subject) -> dict[str, Any]:
    """Search until ``subject.over`` is there; a ``Seen`` as a dict."""
    from embedmigrate import Collection
    from embedmigrate.catalog import Catalog, indexes

    seen, last, generations = Seen(), 0, set()
    settings = subject.settings
    anchors = [fields_of(f"w00-{number:06d}", Versions(1, 1)) for number in range(4)]
    queries = {it["id"]: f"{it['title']} {it['text']}" for it in anchors}
    model_of: dict[str, str] = {}
    with ExitStack() as stack:
        catalog = stack.enter_context(Catalog(settings.catalog_url, create=False))
        collection = stack.enter_context(Collection.open(COLLECTION, settings))
        while not subject.over.exists():
            time.sleep(_PAUSE)
            id = list(queries)[seen.searches % len(queries)]
            seen.searches += 1
            began = time.perf_counter()
            try:
                result = collection.search(queries[id], k=1)
            except Exception as error:  # whatever it is: a reader must not see it
                seen.errors.append(f"{type(error).__name__}: {error}")
                continue
            seen.longest_pause = max(seen.longest_pause, time.perf_counter() - began)
            if result.index not in model_of:
                with catalog.read() as connection:
                    model_of[result.index] = indexes.get(connection, result.index).fingerprint
            if not result.hits:
                seen.empty += 1
            elif (
                result.hits[0].id != id
                or abs(result.hits[0].score - 1) > _OFF
                or model_of[result.index] != result.fingerprint
            ):
                seen.mismatched += 1
            seen.went_back += result.generation < last
            last = result.generation
            generations.add(last)
    seen.generations = len(generations)
    return asdict(seen)
