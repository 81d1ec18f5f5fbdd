"""What pydantic found wrong, in the words of this project."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import ValidationError

from embedmigrate.models.references import UNPINNED


class Fault(NamedTuple):
    """One thing that is wrong: at which key, and whether the key itself is the fault."""

    key: tuple[str, ...]
    message: str
    unknown_key: bool
    unpinned: bool = False
    """Whether it is a reference to a model that can change its meaning."""

    def __str__(self) -> str:
        return ": ".join(filter(None, (".".join(self.key), self.message)))


def first_fault(error: ValidationError) -> Fault:
    """The fault to show; never a value, which may be a secret.

    A misspelt key is also a missing one: what stands in the input is said first.
    """
    found = error.errors(include_url=False, include_input=False)
    first = min(found, key=lambda entry: entry["type"] != "extra_forbidden")
    unknown = first["type"] == "extra_forbidden"
    message = "unknown key" if unknown else first["msg"].removeprefix("Value error, ")
    return Fault(tuple(map(str, first["loc"])), message, unknown, first["type"] == UNPINNED)
