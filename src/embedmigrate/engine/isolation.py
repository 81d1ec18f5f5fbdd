"""Finding the texts that a model cannot embed, and telling them from a model that is in trouble.

A call that fails is halved until each text that fails stands alone. That such a text is to blame,
and not the model, is believed when another text of the batch was answered; where none was, the
model has to answer its canaries, and more than a handful of texts that all fail are its fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from embedmigrate.embedders.base import Vectors
from embedmigrate.errors import (
    BadAnswer,
    EmbedMigrateError,
    ModelRaised,
    NotFinite,
    TextRefused,
    WrongCount,
    WrongDimension,
    WrongNorm,
    ZeroVector,
)

FEW = 3
"""So many texts may all fail and be to blame, if the model answers its canaries. Where every one of
more texts fails, it is not the texts."""

Key = bytes
Ask = Callable[[Sequence[Key]], Vectors]
Probe = Callable[[], None]
"""Returns when the model is itself; raises what is wrong with it otherwise."""

_REASONS: dict[type[EmbedMigrateError], str] = {
    NotFinite: "a vector with values that are not finite",
    ZeroVector: "a vector without a direction",
    WrongDimension: "a vector of another length",
    WrongNorm: "a vector that is not normalised",
}
_CLASS_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_STATUS = re.compile(r"\d{3}")


def may_be_the_text(error: EmbedMigrateError) -> bool:
    """Whether one text can be why a call failed.

    Never for a wrong count: after it nobody knows whose vector is whose. Never for a model that is
    another one, a server that is away, or a request to stop: other texts would meet the same.
    """
    return isinstance(error, BadAnswer | TextRefused) and not isinstance(error, WrongCount)


def reason_of(error: EmbedMigrateError) -> str:
    """Why a text cannot be embedded, in words of ours: no text, and no message of a runtime."""
    found = str(error.found)
    if isinstance(error, ModelRaised):
        return f"the model raises {found if _CLASS_NAME.fullmatch(found) else 'an exception'}"
    if isinstance(error, TextRefused):
        status = _STATUS.match(found)
        return f"the server refuses it ({status.group()})" if status else "the server refuses it"
    return _REASONS.get(type(error), "an answer that cannot be used")


class Isolation:
    """The texts of one batch, by key: what was answered, and which of them cannot be embedded.

    ``ask`` makes one model call and returns checked vectors ``(len(keys), d)``. Without ``probe``
    nothing is isolated: the first call that fails ends the work. ``believe`` blames texts whatever
    their number.
    """

    def __init__(
        self, ask: Ask, keys: Sequence[Key], probe: Probe | None, *, believe: bool = False
    ) -> None:
        self.vectors: dict[Key, Vectors] = {}
        self.failed: dict[Key, str] = {}
        """Reason by key."""
        self.calls: list[Sequence[Key]] = []
        """The calls that were answered."""
        self.asked = 0
        """Texts that the model was asked for, again and again if it came to that."""
        self._ask, self._keys, self._probe, self._believe = ask, keys, probe, believe
        self._probed = False

    def solve(self, keys: Sequence[Key]) -> None:
        """Ask for all of ``keys`` in one call; find out who is to blame if it fails.

        One text that cannot be embedded costs at most ``2 * log2(len(keys))`` calls more. Raises
        what is wrong with the model, if it is the model.
        """
        keys = self._open(keys)
        error = self._try(keys) if keys else None
        if error is not None:
            self._halve(keys, error)

    def _open(self, keys: Sequence[Key]) -> Sequence[Key]:
        return [key for key in keys if key not in self.failed and key not in self.vectors]

    def _halve(self, keys: Sequence[Key], error: EmbedMigrateError) -> None:
        keys = self._open(keys)
        if not keys:
            return
        if len(keys) == 1:
            self._blame(keys[0], error)
            return
        middle = len(keys) // 2
        left, right = keys[:middle], keys[middle:]
        left_error = self._try(left)
        # A half that must be to blame, as the other one is not, is not asked as a whole again.
        right_error = self._try(right) if left_error or len(right) == 1 else error
        if left_error:
            self._halve(left, left_error)
        if right_error:
            self._halve(right, right_error)

    def _try(self, keys: Sequence[Key]) -> EmbedMigrateError | None:
        self.asked += len(keys)
        try:
            answer = self._ask(keys)
        except EmbedMigrateError as error:
            if self._probe is None or not may_be_the_text(error):
                raise
            return error
        self.vectors.update(zip(keys, answer, strict=True))
        self.calls.append(keys)
        return None

    def _blame(self, key: Key, error: EmbedMigrateError) -> None:
        self.failed[key] = reason_of(error)
        if not self.vectors:
            self._suspect_model(error)

    def _suspect_model(self, error: EmbedMigrateError) -> None:
        """Not one text was answered so far: ``error`` is raised again if that is no accident."""
        assert self._probe is not None
        if not self._probed:
            self._probed = True
            self._probe()
            for key in self._from_afar():
                failure = self._try([key])
                if failure is None:
                    return
                self.failed[key] = reason_of(failure)
        if len(self.failed) > FEW and not self._believe:
            raise error

    def _from_afar(self) -> list[Key]:
        """A few texts from all over the batch that were not asked for by themselves yet."""
        left = [key for key in self._keys if key not in self.failed]
        places = {len(left) - 1, len(left) // 2, 0} if left else set[int]()
        return [left[place] for place in sorted(places, reverse=True)][:FEW]
