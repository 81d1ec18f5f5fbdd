"""Tokenizers with the effective settings of a model, whatever their file says.

A ``tokenizer.json`` carries the truncation and padding of the day it was saved, often another one
than the model uses. Both are overruled here: truncation comes from the model, and there is no
padding, so that a text's tokens never depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedmigrate.embedders.files import read_json
from embedmigrate.errors import ConfigError, MissingExtra, UnsupportedModel
from embedmigrate.models import EmbeddingModel

if TYPE_CHECKING:
    from tokenizers import Encoding


class TextTokenizer:
    """``tokenizer.json`` at ``path``, as ``model`` uses it. Safe for several threads."""

    def __init__(self, path: Path, model: EmbeddingModel, extra: str) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingExtra(f"the tokenizer of {model.reference}", extra) from error
        stated = require_tokenizer(path)
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises no narrower class
            raise _no_tokenizer(path, str(error)) from error
        tokenizer.no_padding()
        if model.max_tokens is None:
            tokenizer.no_truncation()
        else:
            added = tokenizer.num_special_tokens_to_add(False) if model.special_tokens else 0
            if model.max_tokens <= added:
                # The library would then not truncate at all.
                raise ConfigError(
                    f"max_tokens of {model.reference} leaves no room for a text",
                    found=model.max_tokens,
                    expected=f"more than its {added} special tokens",
                    next_step="correct max_tokens of the model",
                )
            tokenizer.enable_truncation(model.max_tokens)
        self._tokenizer = tokenizer
        self._special_tokens = model.special_tokens
        self._unknown: str | int | None = stated.get("unk_token", stated.get("unk_id"))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, truncated, never padded.

        A lone surrogate, which no tokenizer takes, is read as U+FFFD.
        """
        try:
            encodings = self._encode(texts)
        except TypeError:
            encodings = self._encode([without_surrogates(text) for text in texts])
        return [encoding.ids for encoding in encodings]

    def _encode(self, texts: Sequence[str]) -> Sequence[Encoding]:
        return self._tokenizer.encode_batch_fast(
            list(texts), add_special_tokens=self._special_tokens
        )

    def token_ids(self) -> int:
        """One more than the greatest id that the tokenizer can answer."""
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def unknown_id(self) -> int | None:
        """Id of the token that stands for what is not in the vocabulary."""
        if self._unknown is None or isinstance(self._unknown, int):
            return self._unknown
        found: int | None = self._tokenizer.token_to_id(self._unknown)
        return found

    def require_one_segment(self) -> None:
        """``UnsupportedModel`` if a single text gets segment ids other than 0."""
        segments = set(self._tokenizer.encode("a").type_ids)
        if segments - {0}:
            raise UnsupportedModel(
                "the tokenizer marks a single text with more than one segment",
                found=", ".join(map(str, sorted(segments))),
                expected="segment 0",
                next_step="choose another model",
            )


def require_tokenizer(path: Path) -> Mapping[str, Any]:
    """What a ``tokenizer.json`` says of its model; ``ConfigError`` when it cannot be one.

    Needs no tokenizer library: a file that says nothing of a model is found when it is pinned.
    """
    stated = read_json(path).get("model")
    if not isinstance(stated, dict):
        raise _no_tokenizer(path, 'no object "model"')
    return stated


def _no_tokenizer(path: Path, found: str) -> ConfigError:
    return ConfigError(
        f"{path} is not a tokenizer",
        found=found,
        expected="a tokenizer.json of the tokenizers library",
        next_step="restore the file, or correct tokenizer of the model, then pin it again",
    )


def stated_truncation(path: Path) -> int | None:
    """The truncation that a ``tokenizer.json`` was saved with."""
    truncation = read_json(path).get("truncation") or {}
    return truncation.get("max_length")


def without_surrogates(text: str) -> str:
    """``text`` with every lone surrogate, which no UTF-8 can hold, replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
