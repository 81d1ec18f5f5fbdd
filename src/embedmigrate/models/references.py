"""References that can change their meaning, each told by name (I19).

A tag, a branch or an alias is answered by one model today and by another tomorrow, and nothing
raises in between. A reference pins a model when whoever owns the name cannot move it: a digest, a
whole commit hash, a fingerprint, or a name with a date or a number that the vendor never reuses.
"""

from __future__ import annotations

import re

from pydantic import ValidationInfo
from pydantic_core import PydanticCustomError

ALLOW_UNPINNED = "allow_unpinned"
"""Key of the validation context under which unpinned references pass: for ``pin`` and its like."""

UNPINNED = "unpinned_reference"
"""Type of the pydantic error that says a reference is not pinned."""

_DIGEST = re.compile(r"(.+@)?sha256:[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_FINGERPRINT = re.compile(r".+@[0-9a-f]{32}")
_DATED = re.compile(
    r".+([-@_](20\d\d-?[01]\d-?[0-3]\d|2[0-9][01]\d|0\d\d|\d{3})|@\d+)(-[a-z0-9]+)?"
)
"""A date (2024-05-13, 20240513, 2312) or a number (-001, @003) that a vendor does not reuse."""

_RANGE = re.compile(r"^\s*[\^~<>=!]|[<>]=?|~=|!=|\.\.|\|\||,|\s-\s")
_WILDCARD = re.compile(r"[*?]|(^|[.@:-])[xX]($|[.])")
_BRANCHES = frozenset(
    (
        *("main", "master", "trunk", "develop", "development", "dev", "stable", "nightly"),
        *("edge", "beta", "next", "release", "prod", "production", "staging", "default", "current"),
    )
)
_ABBREVIATED = re.compile(r"(?=.*\d)[0-9a-f]{4,39}")

DATED_NAMES = {
    "mistral-embed": "mistral-embed-2312",
    "codestral-embed": "codestral-embed-2505",
    "textembedding-gecko": "textembedding-gecko@003",
    "textembedding-gecko-multilingual": "textembedding-gecko-multilingual@001",
    "gemini-embedding": "gemini-embedding-001",
}
"""Hosted aliases whose vendors offer a name that does not move."""


def is_pinned(reference: str) -> bool:
    """Whether ``reference`` is a digest, a whole commit or a ``name@fingerprint``."""
    forms = (_DIGEST, _COMMIT, _FINGERPRINT)
    return any(form.fullmatch(reference) for form in forms)


def is_commit(revision: str) -> bool:
    """Whether ``revision`` is the whole hash of a commit."""
    return bool(_COMMIT.fullmatch(revision))


def is_dated(name: str) -> bool:
    """Whether a vendor's model name carries a date or number that fixes it."""
    return not moving_form(name) and bool(_DATED.fullmatch(name))


def moving_form(reference: str) -> str | None:
    """What makes ``reference`` one that can be moved; None if nothing in its form does."""
    tag = re.split(r"[:@]", reference)[-1] if not _DIGEST.fullmatch(reference) else ""
    forms = (
        (not reference.strip(), "an empty revision"),
        (_WILDCARD.search(reference), "a wildcard"),
        (_RANGE.search(reference), "a range of versions"),
        (re.search(r"(^|[:@-])latest$", reference, re.I), "the tag latest, which moves"),
        (tag.upper() == "HEAD", "HEAD, which moves"),
        (re.match(r"(refs|origin|heads|tags)/", tag), "a git reference, which moves"),
        (tag.lower() in _BRANCHES, f"the branch {tag}, which moves"),
        (_ABBREVIATED.fullmatch(tag), f"an abbreviated commit hash, {len(tag)} digits of 40"),
    )
    return next((why for found, why in forms if found), None)


def why_unpinned(reference: str) -> str | None:
    """Why ``reference`` does not pin a model, in the words of an error; None when it does."""
    if is_pinned(reference):
        return None
    if moving := moving_form(reference):
        return moving
    if "@" in reference:
        return "a version without a digest: a tag or a branch"
    if ":" in reference:
        return "a tag without a digest"
    return "a name without a version"


def require_commit(revision: str | None, info: ValidationInfo) -> str | None:
    """A pydantic validator: ``revision`` is a whole commit hash, unless the context allows less."""
    if revision is None or is_commit(revision) or _allowed(info):
        return revision
    why = moving_form(revision) or "a branch or a tag, which can be moved"
    raise unpinned(f"{revision!r} is {why}; expected the 40 hexadecimal digits of a commit")


def unpinned(message: str) -> PydanticCustomError:
    """The error of a validator that found an unpinned reference."""
    return PydanticCustomError(UNPINNED, "{message}", {"message": message})


def _allowed(info: ValidationInfo) -> bool:
    return allows_unpinned(info.context)


def allows_unpinned(context: object) -> bool:
    """Whether a validation context lets unpinned references pass."""
    return isinstance(context, dict) and bool(context.get(ALLOW_UNPINNED))
