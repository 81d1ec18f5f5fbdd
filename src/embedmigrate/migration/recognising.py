"""Which revision made an index, and what was applied, when only indexes and scripts tell.

An index says what it was built to, by the digest of its spec, and the last generation in which it
was live. The scripts say which revision wants such an index. What both leave open is refused, until
a person names the revision that was applied.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from embedmigrate.catalog.rebuilding import Applied, Floor, Index, Rebuilt
from embedmigrate.catalog.records import IndexState
from embedmigrate.errors import NotProven, UnknownCatalog
from embedmigrate.migration.operations import ReembedOp
from embedmigrate.migration.recorder import RecordedStep
from embedmigrate.models import IndexSpec
from embedmigrate.stores.base import IndexManifest

_UNSEEN_GENERATIONS = 2
"""A switch may not have reached its index, nor the next one: no reader shall see a generation of
another index again."""


@dataclass(frozen=True)
class Container:
    """An index in a store."""

    manifest: IndexManifest
    adopted: bool = False

    @property
    def name(self) -> str:
        return self.manifest.index

    @property
    def generation(self) -> int:
        return self.manifest.generation


@dataclass(frozen=True)
class Move:
    """A revision of one collection, and the index that it goes to."""

    step: RecordedStep
    down_revision: str | None
    spec: IndexSpec
    built: IndexSpec
    """Of the vectors: of another model where the revision rebinds."""

    @property
    def revision(self) -> str:
        return self.step.revision

    @property
    def rebinds(self) -> bool:
        return not isinstance(self.step.operation, ReembedOp)

    def goes_to(self, container: Container) -> bool:
        return container.manifest.spec_digest in (self.spec.digest, self.built.digest)


@dataclass
class Recognition:
    """One collection: its moves, ancestors first, and what lies in its store."""

    collection: str
    moves: Sequence[Move]
    containers: Sequence[Container]
    applied: str | None = None
    """The last revision that was applied, if a person says so."""
    equal: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Fingerprints that are still known to be proven equal to one."""

    def recognise(self) -> Rebuilt:
        """What the catalog is to say of it.

        ``UnknownCatalog`` where that is open, ``NotProven`` for a rebinding whose proof is lost.
        """
        at = self._last_applied()
        mine = {} if at is None else self._indexes_of_moves(at)
        names = _Names(self.collection, self._made())
        records: dict[str, Index] = {}
        by_move: dict[int, str] = {}
        for number, container in sorted(mine.items()):
            state = IndexState.LIVE if number == at else IndexState.RETAINED
            spec = self.moves[number].spec
            record = replace(self._record(self.moves[number], container, state), spec=spec)
            same = records.get(container.name)
            if same is None or (number == at and same.spec.answers_like(spec)):
                records[record.name] = record
            elif not same.spec.answers_like(spec):  # the same vectors, asked otherwise
                record = replace(record, name=names.next())
                records[record.name] = record
            by_move[number] = record.name
        return self._written(at, mine, by_move, records, names)

    @property
    def strange(self) -> list[Container]:
        """What no revision wants: it is left alone."""
        return [it for it in self.containers if not self._wanting(it)]

    # -- what was applied ---------------------------------------------------------------------

    def _wanting(self, container: Container) -> list[int]:
        return [number for number, move in enumerate(self.moves) if move.goes_to(container)]

    def _last_applied(self) -> int | None:
        """The move to what is live; None when nothing ever was."""
        used = [it for it in self.containers if it.generation > 0]
        if self.applied is not None:
            return self._as_told(used)
        if not used:
            return None
        greatest = max(it.generation for it in used)
        last = [it for it in used if it.generation == greatest]
        if len(last) > 1:
            raise self._open("which of its indexes is live", _names(last))
        adopted = [it for it in used if it.adopted]
        if adopted and len(used) > 1:  # nobody writes to it: a way back to it is not noted there
            raise self._open("whether it went back to the index that was adopted", _names(used))
        wanting = self._wanting(last[0])
        if len(wanting) != 1:
            revisions = ", ".join(self.moves[it].revision for it in wanting)
            found = f"{_names(last)}, which is of {revisions or 'no script'}"
            raise self._open("which revision made what is live", found)
        return wanting[0]

    def _as_told(self, used: Sequence[Container]) -> int:
        number = next(n for n, move in enumerate(self.moves) if move.revision == self.applied)
        move = self.moves[number]
        found = [it for it in used if move.goes_to(it)]
        if not found:
            raise UnknownCatalog(
                f"there is no index that revision {self.applied} of {self.collection!r} made live",
                found=_names(used) or "no index that was live",
                expected=f"an index of {move.spec.model.reference}",
                next_step="name another revision, or restore the store from a backup",
            )
        space, target = _latest(found).manifest.fingerprint, move.spec.model
        if space not in (target.fingerprint, *self.equal.get(target.fingerprint, ())):
            raise NotProven(
                f"the proof that {target.reference} spans the space of {found[0].name} is lost",
                found=f"vectors of {space}",
                expected="the revision before it, which made them",
                next_step=f"--applied {move.down_revision}; then embedmigrate upgrade proves it "
                "again, and embeds nothing",
            )
        return number

    def _open(self, what: str, found: str) -> UnknownCatalog:
        revisions = ", ".join(move.revision for move in self.moves)
        return UnknownCatalog(
            f"stores and scripts do not tell {what}, of {self.collection!r}",
            found=found,
            expected=f"one index that was live last, made by one of {revisions or 'no script'}",
            next_step="embedmigrate doctor --rebuild-catalog --applied REVISION, with the last one "
            "that was applied; embedmigrate history shows them",
        )

    # -- which index is of which revision -----------------------------------------------------

    def _indexes_of_moves(self, at: int) -> dict[int, Container]:
        """Containers by the number of their move, of what was live at some time.

        Of two for one move the later one counts. One that fits several is of the last before what
        is live, for which there is none yet.
        """
        used = sorted(
            (it for it in self.containers if it.generation > 0),
            key=lambda it: (it.generation, it.name),
            reverse=True,
        )
        live = next(it for it in used if self.moves[at].goes_to(it))
        found = {at: live}
        base = _base(self.moves, at)
        if base is not None and self.moves[base].goes_to(live):
            found[base] = live
        for container in used:
            wanting = [
                n for n in self._wanting(container) if n not in found and not self.moves[n].rebinds
            ]
            before = [n for n in wanting if n < at]
            if container is not live and wanting:
                found[before[-1] if before else wanting[0]] = container
        for number in range(at):
            base = _base(self.moves, number)
            again = next((it for it in used if self.moves[number].goes_to(it)), None)
            if number not in found and self.moves[number].rebinds and base in found:
                found[number] = found[base]
            elif number not in found and again is not None:  # what came back later
                found[number] = again
        return found

    def _record(self, move: Move, container: Container, state: IndexState) -> Index:
        own = container.manifest.spec_digest
        return Index(
            name=container.name,
            spec=move.spec if move.spec.digest == own else move.built,
            state=IndexState.ADOPTED if container.adopted else state,
            container=container.name,
            adopted=container.adopted,
            revision=move.revision,
        )

    # -- what is written ----------------------------------------------------------------------

    def _written(
        self,
        at: int | None,
        mine: Mapping[int, Container],
        by_move: Mapping[int, str],
        records: dict[str, Index],
        names: _Names,
    ) -> Rebuilt:
        applied: list[Applied] = []
        previous: str | None = None
        for number in range(0 if at is None else at + 1):
            move = self.moves[number]
            index, superseded_by = by_move.get(number), None
            if index is None:
                following = min(n for n in by_move if n > number)
                if self._was_skipped(number, following, mine):
                    superseded_by = self.moves[following].revision
                else:
                    index = names.lost()
                    state = IndexState.DROPPED
                    records[index] = Index(index, move.spec, state, index)
            applied.append(
                Applied(
                    revision=move.revision,
                    down_revision=move.down_revision,
                    index=index,
                    previous=None if superseded_by else previous,
                    superseded_by=superseded_by,
                )
            )
            previous = index or previous
        for container in self.containers:
            if container.name not in records and (wanting := self._wanting(container)):
                move = self.moves[next((n for n in wanting if at is None or n > at), wanting[-1])]
                state = IndexState.RETAINED if container.generation else IndexState.BUILDING
                records[container.name] = self._record(move, container, state)
        left = [n for n in mine if at is not None and n > at]
        undone = () if at is None else self.moves[at + 1 : max(left, default=at) + 1]
        generation = max((it.generation for it in self.containers), default=0)
        return Rebuilt(
            name=self.collection,
            floor=Floor(
                generation=generation + _UNSEEN_GENERATIONS if generation else 0, made=names.made
            ),
            live=None if at is None else by_move[at],
            indexes=tuple(records.values()),
            applied=tuple(applied),
            undone=tuple(move.revision for move in undone),
        )

    def _was_skipped(self, number: int, following: int, mine: Mapping[int, Container]) -> bool:
        """Whether a revision without an index never was live, but applied as one with a later one.

        Between two switches that follow one another nothing else was live.
        """
        before = max((n for n in mine if n < number), default=None)
        if before is not None and mine[before] is mine[following]:
            return False
        start = 0 if before is None else mine[before].generation
        return mine[following].generation - start <= 1

    def _made(self) -> int:
        """The greatest number that an index of the collection has in its name."""
        form = re.compile(re.escape(self.collection) + r"-(\d{4,9})")
        matches = (form.fullmatch(it.name) for it in self.containers)
        return max((int(match[1]) for match in matches if match), default=0)


class _Names:
    """Names for index records that have no container of their own."""

    def __init__(self, collection: str, made: int) -> None:
        self._collection, self.made = collection, made

    def next(self) -> str:
        self.made += 1
        return f"{self._collection}-{self.made:04d}"

    def lost(self) -> str:
        """For what was dropped. No container is ever called so: what is found under the name of
        one that was dropped is taken for what a crash has left of it."""
        return f"{self.next()}-lost"


def over_floor(rebuilt: Rebuilt, floor: Floor) -> Rebuilt:
    """The same with numbers that are not below ``floor`` either."""
    return replace(rebuilt, floor=rebuilt.floor.over(floor))


def _base(moves: Sequence[Move], number: int) -> int | None:
    """The move that built what ``number`` goes to."""
    return next((n for n in range(number, -1, -1) if not moves[n].rebinds), None)


def _latest(containers: Sequence[Container]) -> Container:
    return max(containers, key=lambda it: (it.generation, it.name))


def _names(containers: Sequence[Container]) -> str:
    return ", ".join(f"{it.name} (generation {it.generation})" for it in containers)
