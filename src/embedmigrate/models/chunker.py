"""How a long text is cut into chunks, each of which has a vector of its own.

The tokens that are counted are words and signs as the expression below finds them, never those of a
model: chunks must come out the same for every model, hosted ones included, and also where none can
be loaded, since a comparison of source and index cuts every text again. For the same reason the
expression spells its characters out: what a library calls a letter changes with its version.
"""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

_SPACE = r"\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_SIGN = r"!-/:-@\[-`{-~\xa1-\xbf\u2010-\u2027\u2030-\u205e\u2060-\u2bff"
_DENSE = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai and Lao, Myanmar, Khmer
    r"\u2e80-\u2fff\u3001-\ua4cf\uac00-\ud7ff"  # Chinese, Japanese, Yi, Korean
    r"\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff"  # and their other forms
    r"\U0001f000-\U0001faff"  # pictures
)
_LONGEST = 32
_TOKEN = re.compile(f"[{_SIGN}{_DENSE}]|[^{_SPACE}{_SIGN}{_DENSE}]{{1,{_LONGEST}}}")
"""Version 1, part of every digest: an expression that finds other tokens is another version."""


class Chunker(BaseModel):
    """Windows of ``size`` tokens, each of which begins with the last ``overlap`` of the one before.

    A token is a word, a punctuation mark or a symbol; one character of a script that is written
    without spaces; words end after 32 letters. A text of at most ``size`` tokens is one chunk, as
    it stands. Every other chunk is a part of the text, from the first to the last of its tokens.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["tokens"] = "tokens"
    size: int = Field(ge=1)
    overlap: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _moves_on(self) -> Self:
        if self.overlap >= self.size:
            raise ValueError("overlap is smaller than size: each chunk has something new")
        return self

    @property
    def identity(self) -> dict[str, object]:
        """What a digest covers."""
        return {"kind": "tokens/1", "size": self.size, "overlap": self.overlap}

    def cut(self, text: str) -> list[str]:
        """The chunks of ``text`` in order, none of them empty; none at all for ``""``."""
        spans = [match.span() for match in _TOKEN.finditer(text)]
        if len(spans) <= self.size:
            return [text] if text else []
        return [
            text[spans[first][0] : spans[min(first + self.size, len(spans)) - 1][1]]
            for first in range(0, len(spans) - self.overlap, self.size - self.overlap)
        ]
