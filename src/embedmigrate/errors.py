"""Every error that embedmigrate raises on purpose.

One tree. An error carries its facts as data (``found``, ``expected``, ``next_step``) so that a
caller can act on them, and prints them in the same order: what happened, what was found, what
was expected, what to type next. The class decides the exit status of the command line
(see ``docs/cli.md``). No error holds document text or a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class EmbedMigrateError(Exception):
    """Base of the tree; raised itself only for failures that fit no narrower class."""

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        found: object = None,
        expected: object = None,
        next_step: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.found = found
        self.expected = expected
        self.next_step = next_step
        self.result: Mapping[str, Any] | None = None
        """What a command did all the same for other collections, before it raised this."""

    def __str__(self) -> str:
        lines = [self.message]
        if self.found is not None:
            lines.append(f"  found:    {self.found}")
        if self.expected is not None:
            lines.append(f"  expected: {self.expected}")
        if self.next_step is not None:
            lines.append(f"  next:     {self.next_step}")
        return "\n".join(lines)


# -- 2: the command was typed wrongly ---------------------------------------------------------


class UsageError(EmbedMigrateError):
    """A command or an API function was called with arguments that cannot be meant."""

    exit_code = 2


class UnknownCollection(UsageError):
    """No collection of that name is configured."""


class UnknownRevision(UsageError):
    """A revision identifier names nothing, or more than one script."""


# -- 3: refused by a safety check -------------------------------------------------------------


class Refused(EmbedMigrateError):
    """A safety check said no; nothing was changed."""

    exit_code = 3


class ModelMismatch(Refused):
    """Two things that must be one space are not."""


class DimensionMismatch(ModelMismatch):
    """The vectors of the two models have different lengths."""


class NameMismatch(ModelMismatch):
    """Another model altogether."""


class RevisionMismatch(ModelMismatch):
    """Another revision of the model."""


class WeightsMismatch(ModelMismatch):
    """The digests of weights, tokenizer or another artifact differ."""


class PoolingMismatch(ModelMismatch):
    """The same files, pooled otherwise."""


class NormalizationMismatch(ModelMismatch):
    """One of the two normalises its vectors."""


class TruncationMismatch(ModelMismatch):
    """Long texts are cut at different lengths."""


class TokenizationMismatch(ModelMismatch):
    """One of the two adds special tokens."""


class DocumentPromptMismatch(ModelMismatch):
    """Documents get different prompts."""


class QueryPromptMismatch(ModelMismatch):
    """Queries get different prompts."""


class QuantizationMismatch(ModelMismatch):
    """The output is quantised otherwise."""


class ParametersMismatch(ModelMismatch):
    """A vendor is asked with other parameters."""


class WitnessMismatch(ModelMismatch):
    """The same name, seen to behave otherwise."""


class MetricMismatch(ModelMismatch):
    """The index compares its vectors by another metric than is configured."""


class UnknownStamps(ModelMismatch):
    """An index holds vectors of which nobody knows the model."""


class MixedStamps(ModelMismatch):
    """An index holds vectors of more than one space."""


class Drifted(Refused):
    """A model that claims to be the pinned one behaves otherwise."""


class Inconsistent(Drifted):
    """A model answers a text otherwise among others than by itself."""


class AuditFailed(Refused):
    """A store holds something else than its collection should."""


class NotProven(Refused):
    """Vectors are not shown to be what they are said to be."""


class DigestMismatch(Refused):
    """A file is not the one that was pinned."""


class SourceMismatch(Refused):
    """A revision leaves another model than the one that is live."""


class Fork(Refused):
    """Two open re-embeddings of one collection start from the same revision."""


class Irreversible(Refused):
    """There is no way back from here without work that was not asked for."""


class StickyState(Refused):
    """A person rolled back or cancelled; a scheduled run does not undo that."""


class DuplicateId(Refused):
    """A source holds one id twice, or a record without an id."""


class UnknownCatalog(Refused):
    """The catalog does not know the indexes that it finds, or is newer than this program."""


class DamagedIndex(Refused):
    """A file of an index is truncated, edited or missing."""


class VerificationFailed(Refused):
    """An invariant does not hold for an index that was about to go live."""


class Vetoed(Refused):
    """A hook did not let a collection be cut over."""


class FencedOut(Refused):
    """Another runner took the collection over; this one may not write any more."""


# -- 6, 7: stopped ----------------------------------------------------------------------------


class DeadLetters(EmbedMigrateError):
    """Documents that could not be embedded stop the cut-over."""

    exit_code = 6


class Stopped(EmbedMigrateError):
    """Stopped by a signal or a limit between two batches; the same command resumes."""

    exit_code = 7


class AskedToStop(Stopped):
    """A person asked, from another process, to pause or to cancel the work on one collection."""

    def __init__(self, collection: str, message: str, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.collection = collection


# -- 75: try again later ----------------------------------------------------------------------


class Temporary(EmbedMigrateError):
    """Nothing is wrong for good: a lock is held, a disk is full, a provider is down."""

    exit_code = 75


class LockHeld(Temporary):
    """Another runner works on this collection."""


class Behind(Temporary):
    """A new index does not have every change that readers have seen already."""


class SourceChanged(Temporary):
    """A source file was rewritten in place while it was read."""


class StorageUnavailable(Temporary):
    """A store or the catalog cannot be written now: full, read-only or busy."""


class ServerAway(StorageUnavailable):
    """A database server does not answer, or has closed the connection: it may be restarting."""


class IndexGone(Temporary):
    """The index that the route named was dropped; resolve the route once more."""


# -- 78: configuration or script that cannot be loaded ----------------------------------------


class ConfigError(EmbedMigrateError):
    """The configuration, a pin file or a migration script cannot be loaded."""

    exit_code = 78


class ModelUnavailable(ConfigError):
    """An application lacks the model of an index that it has to answer from."""


class UnpinnedReference(ConfigError):
    """A model is named in a way that can change its meaning."""


class ScriptError(ConfigError):
    """A migration script cannot be loaded or contradicts itself."""


class MissingExtra(ConfigError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs an optional dependency that is not installed",
            next_step=f"pip install 'embedmigrate[{extra}]'",
        )


class UnsupportedModel(ConfigError):
    """The model is of a kind that has no single dense vector for a text."""


class TextRefused(ConfigError):
    """A server refuses a request, which may be for one of the texts in it."""


# -- what an embedder may answer --------------------------------------------------------------


class BadAnswer(EmbedMigrateError):
    """An embedder answered something that is not one sane vector a text, in order."""


class WrongCount(BadAnswer):
    """Not one vector a text: which vector belongs to which text, nobody can tell."""


class WrongDimension(BadAnswer):
    """Vectors of another length than the model's."""


class NotFinite(BadAnswer):
    """Vectors with infinities, or with values that are no numbers."""


class ZeroVector(BadAnswer):
    """Vectors without a direction."""


class WrongNorm(BadAnswer):
    """Vectors that are not normalised, of a model that normalises."""


class ModelRaised(BadAnswer):
    """The runtime of a model raised something; ``found`` is the name of its class."""
