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
_DATE = r"20\d\d-?(0[1-9]|1[0-2])-?([0-2]\d|3[01])|2\d(0[1-9]|1[0-2])([0-2]\d|3[01])?"
_DATED = re.compile(rf".+([-@_]({_DATE})|[-@]00\d)")
"""Ends in a date (2024-05-13, 20240513, 240513, 2405) or in a version of three digits (-001, @003),
which Google promises never to change. Three other digits are a size: -256, -768."""
_VERSION = re.compile(rf"[-@_:]({_DATE}|00\d|v\d+)")
"""What may follow a name in its dated form, or in one that only replies use (…-v2)."""

_RANGE = re.compile(r"^\s*[\^~<>=!]|[<>]=?|~=|!=|\.\.|\|\||,|\s-\s")
_WILDCARD = re.compile(r"[*?]|^[xX]$|[.@:][xX]($|[.])")
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
}
"""Hosted aliases whose vendors offer a name that does not move."""

_SHARED_NUMBERS = frozenset({"text-embedding-ada-002"})
"""Names that end like a version and are none: replies call this one ``-v2``, and resellers offer a
version 1 and a version 2 of it."""


NOT_WHOLE = "not a whole digest; expected sha256:<64 hexadecimal digits>"


def is_digest(reference: str) -> bool:
    """Whether it is ``sha256:<64 hex digits>``, without a name."""
    return reference.startswith("sha256:") and bool(_DIGEST.fullmatch(reference))


def is_pinned(reference: str) -> bool:
    """Whether ``reference`` is a digest, a whole commit or a ``name@fingerprint``."""
    forms = (_DIGEST, _COMMIT, _FINGERPRINT)
    return any(form.fullmatch(reference) for form in forms)


def is_commit(revision: str) -> bool:
    """Whether ``revision`` is the whole hash of a commit."""
    return bool(_COMMIT.fullmatch(revision))


def is_dated(name: str) -> bool:
    """Whether a vendor's model name carries a date or number that fixes it."""
    if moving_form(name) or name.rpartition("/")[2] in _SHARED_NUMBERS:
        return False
    return bool(_DATED.fullmatch(name))


def dated_name(name: str) -> str | None:
    """The name that does not move, where ``name`` is an alias of which the vendor offers one."""
    path, slash, alias = name.rpartition("/")  # resellers put the maker in front
    dated = DATED_NAMES.get(alias)
    return None if dated is None else path + slash + dated


def is_form_of(answered: str, asked: str) -> bool:
    """Whether a reply that names ``answered`` may come from the model ``asked``: the same name, a
    dated or numbered form of it, or the alias of the dated name that was asked for."""
    rest = answered.removeprefix(asked)
    if answered.startswith(asked) and (not rest or _VERSION.fullmatch(rest)):
        return True
    return dated_name(answered) == asked


def moving_form(reference: str) -> str | None:
    """What makes ``reference`` one that can be moved; None if nothing in its form does."""
    tag = re.split(r"[:@]", reference)[-1] if not _DIGEST.fullmatch(reference) else ""
    forms = (
        (what := unfetchable(reference), what or ""),
        (re.search(r"(^|[:@-])latest$", reference, re.I), "the tag latest, which moves"),
        (tag.upper() == "HEAD", "HEAD, which moves"),
        (re.match(r"(refs|origin|heads|tags)/", tag), "a git reference, which moves"),
        (tag.lower() in _BRANCHES, f"the branch {tag}, which moves"),
        (_ABBREVIATED.fullmatch(tag), f"an abbreviated commit hash, {len(tag)} digits of 40"),
    )
    return next((why for found, why in forms if found), None)


def unfetchable(revision: str) -> str | None:
    """What ``revision`` is when no repository can have something of that name."""
    forms = (
        (not revision.strip(), "an empty revision"),
        (_WILDCARD.search(revision), "a wildcard"),
        (_RANGE.search(revision), "a range of versions"),
    )
    return next((what for found, what in forms if found), None)


def why_unpinned(reference: str) -> str | None:
    """Why ``reference`` does not pin a model, in the words of an error; None when it does."""
    if is_pinned(reference):
        return None
    if moving := moving_form(reference):
        return moving
    if dated := dated_name(reference):
        return f"an alias, which its vendor can move; the name that stays is {dated}"
    if "@" in reference[1:]:
        return "a version without a digest: a tag or a branch"
    if ":" in reference:
        return "a tag without a digest, which can be moved"
    return "a name without a version"


def split_digest(name: str) -> tuple[str, str]:
    """``name@sha256:…`` as name and digest, which is empty where there is none. A digest alone is
    a name as well."""
    if is_digest(name):
        return name, name
    plain, _, digest = name.rpartition("@")
    return (plain, digest) if plain and is_digest(digest) else (name, "")


def why_unpinned_server(name: str, digest: str | None, *, witnessed: bool) -> str | None:
    """Why a model that a server is asked for by ``name`` is not pinned, and what would pin it.

    ``digest`` is what whoever runs the server states for it; ``witnessed`` that there is nothing to
    state. None when it is pinned, or as good as its vendor allows.
    """
    plain, named = split_digest(name)
    moving, dated, loose = moving_form(name), dated_name(name), why_unpinned(plain) or "a hash"
    forms = (
        (not name.strip(), "an empty name; expected the name of a model"),
        (moving, f"{name!r} is {moving}; expected a name that stays, with its date or digest"),
        (
            dated,
            f"{name!r} is an alias, which its vendor can move; expected {dated!r}, which stays",
        ),
        (digest and not is_digest(digest), f"digest is {NOT_WHOLE}"),
        (digest and named not in ("", digest), f"digest is not the one in {name!r}"),
        (
            (digest or named) and witnessed,
            'a digest and pin = "witness" exclude one another; the digest says more',
        ),
        (
            not (digest or named or witnessed or is_dated(name)),
            f'{name!r} is {loose}; state digest = "sha256:…" if the server tells one, or '
            'pin = "witness" if the model has no version that stays: what it answers is recorded '
            "then, and compared",
        ),
    )
    return next((why for found, why in forms if found), None)


def require_commit(revision: str | None, info: ValidationInfo) -> str | None:
    """A pydantic validator: ``revision`` is a whole commit hash, unless the context allows less."""
    if revision is None or is_commit(revision) or _allowed(info):
        return revision
    why = moving_form(revision) or "a branch or a tag, which can be moved"
    if is_commit(revision.lower()):
        why = "in capital letters, which no commit hash is written in"
    raise unpinned(f"{revision!r} is {why}; expected the 40 hexadecimal digits of a commit")


def unpinned(message: str) -> PydanticCustomError:
    """The error of a validator that found an unpinned reference."""
    return PydanticCustomError(UNPINNED, "{message}", {"message": message})


def _allowed(info: ValidationInfo) -> bool:
    return allows_unpinned(info.context)


def allows_unpinned(context: object) -> bool:
    """Whether a validation context lets unpinned references pass."""
    return isinstance(context, dict) and bool(context.get(ALLOW_UNPINNED))
