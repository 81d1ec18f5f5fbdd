"""The Protocol of an embedder: a loaded model that turns texts into vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from embedmigrate.errors import (
    EmbedMigrateError,
    ModelRaised,
    NotFinite,
    Temporary,
    WrongCount,
    WrongDimension,
    WrongNorm,
    ZeroVector,
)
from embedmigrate.models import EmbeddingModel

Vectors = npt.NDArray[np.float32]


class ModelConfig(BaseModel):
    """What every ``[models.x]`` table has: a declaration, not yet an identity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: str
    name: str | None = None


class Embedder(Protocol):
    """A model that was loaded and proven, by digests, to be the pinned one.

    Deterministic, and safe to call from several threads. Knows nothing of batches that survive a
    crash: it may split a call into micro-batches as its runtime likes.
    """

    Config: ClassVar[type[ModelConfig]]
    model: EmbeddingModel
    runtime: str
    """What computes, with its version: a witness is recorded for each."""

    @classmethod
    def identify(cls, name: str, config: ModelConfig, root: Path) -> EmbeddingModel:
        """Resolve a declaration to the exact model that it stands for here and now.

        ``name`` is the configured name; ``root`` is what relative paths start from. Reads files
        and hashes them; does not need the runtime. Raises ``ConfigError`` for a missing package,
        file or setting, ``UnsupportedModel`` for sparse, multi-vector and image models.
        """

    @classmethod
    def load(cls, config: ModelConfig, model: EmbeddingModel, root: Path) -> Self:
        """Load ``model`` from the place that ``config`` names.

        Every artifact is hashed first: ``DigestMismatch`` names the file that is not the pinned
        one. Prompts, pooling and truncation come from ``model``, never from ``config``.
        """

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """float32, C-contiguous, ``(len(texts), model.dimensions)``; row i belongs to text i."""

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """The same for queries, with the query side of the model."""

    def close(self) -> None:
        """Release the runtime. Idempotent."""


NORM_TOLERANCE = 1e-3
"""How far the norm of a normalised float32 vector may be from 1."""


def checked(vectors: Vectors, texts: int, model: EmbeddingModel) -> Vectors:
    """``vectors``, or a ``BadAnswer`` of its own kind unless it is one sane vector a text.

    Checks shape, dtype, finiteness, zero vectors and, where the model normalises, the norm. What
    was measured is in the error; no text is.
    """
    expected = (texts, model.dimensions)
    if vectors.shape != expected or vectors.dtype != np.float32:
        aligned = vectors.ndim == 2 and len(vectors) == texts and vectors.dtype == np.float32
        raise (WrongDimension if aligned else WrongCount)(
            f"{model.reference} answered with the wrong shape",
            found=f"{vectors.dtype} {vectors.shape}",
            expected=f"float32 {expected}",
        )
    if not texts:
        return vectors
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    if not np.isfinite(norms).all():
        raise NotFinite(
            f"{model.reference} answered with values that are not finite",
            found=f"{int((~np.isfinite(norms)).sum())} of {texts} vectors",
            expected="finite numbers",
        )
    if (norms == 0).any():
        raise ZeroVector(
            f"{model.reference} answered with zero vectors",
            found=f"{int((norms == 0).sum())} of {texts} vectors",
            expected="a direction for every text",
        )
    if model.normalize and (np.abs(norms - 1) > NORM_TOLERANCE).any():
        raise WrongNorm(
            f"{model.reference} answered with vectors that are not normalised",
            found=f"norms from {norms.min():.4f} to {norms.max():.4f}",
            expected=f"1 within {NORM_TOLERANCE}",
        )
    return vectors


def ask_documents(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """What ``embedder`` makes of ``texts``, checked; whatever it raises is one of our errors."""
    with named_by_type(embedder.model, len(texts)):
        answer = embedder.embed_documents(texts)
    return checked(answer, len(texts), embedder.model)


@contextmanager
def named_by_type(model: EmbeddingModel, texts: int) -> Iterator[None]:
    """Name an exception of a runtime by its type: its message may hold a text (I21).

    One of the operating system, such as no connection or no time, passes: ``Temporary``.
    """
    try:
        yield
    except EmbedMigrateError:
        raise
    except OSError as error:
        raise Temporary(
            f"{model.reference} cannot be asked now",
            found=type(error).__name__,
            expected="an answer",
            next_step="run the same command again",
        ) from error
    except Exception as error:
        raise ModelRaised(
            f"{model.reference} failed on a call of {texts} texts",
            found=type(error).__name__,
            expected="an answer",
            next_step="run the same command again; if it stays, try the model on its own",
        ) from error
