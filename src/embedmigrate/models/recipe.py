"""How the text to embed is made from a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, field_validator

from embedmigrate.models.canonical import digest
from embedmigrate.models.chunker import Chunker


class Recipe(BaseModel):
    """``text`` fields in order, joined by ``joiner``; empty fields are left out.

    A field is dropped when it is missing, NULL or only white space; otherwise it is used as it
    stands. A document whose fields are all dropped has no text: it is skipped and counted.
    ``chunker`` cuts the joined text; without one a document is one chunk.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: tuple[str, ...]
    joiner: str = " "
    chunker: Chunker | None = None

    @field_validator("text", mode="before")
    @classmethod
    def _one_name_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("text")
    @classmethod
    def _not_empty(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("a recipe names at least one text field")
        return value

    @property
    def digest(self) -> str:
        """Fingerprint of the recipe: another one makes other texts."""
        covered: dict[str, object] = {"text": list(self.text)}
        if self.joiner != " ":
            covered["joiner"] = self.joiner
        if self.chunker is not None:
            covered["chunker"] = self.chunker.identity
        return digest("recipe/1", covered)

    @property
    def whole(self) -> Recipe:
        """The recipe of the same texts, not cut."""
        return self.model_copy(update={"chunker": None})

    def make_text(self, record: Mapping[str, object]) -> str:
        """The text to embed; ``""`` when the document has none."""
        return self.join([record.get(field) for field in self.text])

    def make_chunks(self, record: Mapping[str, object]) -> list[str]:
        """The same text as it is embedded: what a hit calls chunk n is item n."""
        return self.cut(self.make_text(record))

    def cut(self, text: str) -> list[str]:
        """The chunks of a joined text; none of one that is empty."""
        if self.chunker is not None:
            return self.chunker.cut(text)
        return [text] if text else []

    def join(self, values: Sequence[object]) -> str:
        """The same from the field values alone, in the order of ``text``."""
        parts = [
            value if isinstance(value, str) else str(value) for value in values if value is not None
        ]
        return self.joiner.join(part for part in parts if part and not part.isspace())
