"""Names that a server is asked for: which of them stand for one model, and which can be moved."""

from __future__ import annotations

import pytest

from embedmigrate.models.references import (
    dated_name,
    is_dated,
    is_form_of,
    split_digest,
    why_unpinned_server,
)

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    "name",
    [
        "mistral-embed-2312",
        "mistralai/mistral-embed-2312",
        "codestral-embed-2505",
        "gemini-embedding-001",
        "models/gemini-embedding-001",
        "text-embedding-005",
        "text-multilingual-embedding-002",
        "textembedding-gecko@003",
        "doubao-embedding-text-240715",
        "vendor-embed-2024-05-13",
        "vendor-embed-20240513",
    ],
)
def test_a_date_or_a_version_of_three_digits_fixes_a_name(name: str) -> None:
    assert is_dated(name)
    assert why_unpinned_server(name, None, witnessed=False) is None


@pytest.mark.parametrize(
    "name",
    [
        "text-embedding-3-small",
        "text-embedding-3-large",
        "text-embedding-ada-002",  # replies call it -v2; resellers serve versions 1 and 2
        "openai/text-embedding-ada-002",
        "voyage-3.5",
        "voyage-code-2",
        "embed-v4.0",
        "embed-multilingual-v3.0",
        "jina-embeddings-v3",
        "bge-m3",
        "intfloat/multilingual-e5-small",
        "@cf/baai/bge-m3",
        "nomic-embed-text-v1.5",
        "wordllama-256",
        "matryoshka-768",
        "matryoshka-2048",
        "gemini-embedding-exp-03-07",
        "gemini-embedding-2-preview",
        "text-embedding-preview-0409",
    ],
)
def test_a_name_without_either_is_pinned_by_a_digest_or_only_witnessed(name: str) -> None:
    assert not is_dated(name)
    refusal = why_unpinned_server(name, None, witnessed=False)
    assert refusal is not None
    assert "a name without a version" in refusal
    assert 'digest = "sha256:…"' in refusal and 'pin = "witness"' in refusal
    assert why_unpinned_server(name, None, witnessed=True) is None
    assert why_unpinned_server(name, DIGEST, witnessed=False) is None
    assert why_unpinned_server(f"{name}@{DIGEST}", None, witnessed=False) is None


@pytest.mark.parametrize(
    ("name", "digest", "says"),
    [
        ("", None, "an empty name"),
        ("  ", None, "an empty name"),
        ("latest", None, "the tag latest"),
        ("nomic-embed-text:latest", None, "the tag latest"),
        ("nomic-embed-text:latest", DIGEST, "the tag latest"),
        ("vendor-embed-latest", None, "the tag latest"),
        ("main", None, "the branch main"),
        ("bge-m3:main", None, "the branch main"),
        ("bge-m3@HEAD", None, "HEAD"),
        ("bge-m3@refs/heads/x", None, "a git reference"),
        ("bge-m3@1f0c3d9", None, "an abbreviated commit hash"),
        ("bge-*", None, "a wildcard"),
        ("voyage-3.x", None, "a wildcard"),
        (">=voyage-3", None, "a range of versions"),
        ("voyage-3,voyage-4", None, "a range of versions"),
        ("mistral-embed", None, "an alias"),
        ("nomic-embed-text:v1.5", None, "a tag without a digest"),
        ("bge-m3@v2", None, "a version without a digest"),
        ("bge-m3", "sha256:abc", "not a whole digest"),
        (f"bge-m3@{DIGEST}", "sha256:" + "cd" * 32, "not the one in"),
        ("bge-m3", None, "a name without a version"),
    ],
)
def test_every_form_that_can_be_moved_is_told_by_name(
    name: str, digest: str | None, says: str
) -> None:
    refusal = why_unpinned_server(name, digest, witnessed=False)
    assert refusal is not None and says in refusal


def test_what_moves_is_not_made_fast_by_saying_that_it_is_witnessed() -> None:
    for name in ("nomic-embed-text:latest", "main", "mistral-embed", "bge-*", ""):
        assert why_unpinned_server(name, None, witnessed=True) is not None
    assert why_unpinned_server("nomic-embed-text:v1.5", None, witnessed=True) is None


def test_a_digest_and_a_witness_are_not_stated_together() -> None:
    refusal = why_unpinned_server("bge-m3", DIGEST, witnessed=True)
    assert refusal is not None and "exclude one another" in refusal


def test_an_alias_leads_to_the_dated_name_of_its_vendor() -> None:
    assert dated_name("mistral-embed") == "mistral-embed-2312"
    assert dated_name("mistralai/mistral-embed") == "mistralai/mistral-embed-2312"
    assert dated_name("mistral-embed-2312") is None
    assert dated_name("bge-m3") is None
    refusal = why_unpinned_server("mistral-embed", None, witnessed=True)
    assert refusal is not None and "'mistral-embed-2312'" in refusal


def test_a_digest_is_split_from_its_name() -> None:
    assert split_digest(f"nomic-embed-text:v1.5@{DIGEST}") == ("nomic-embed-text:v1.5", DIGEST)
    assert split_digest("textembedding-gecko@003") == ("textembedding-gecko@003", "")
    assert split_digest("@cf/baai/bge-m3") == ("@cf/baai/bge-m3", "")
    assert split_digest(DIGEST) == (DIGEST, DIGEST)


@pytest.mark.parametrize(
    ("answered", "asked", "same"),
    [
        ("bge-m3", "bge-m3", True),
        ("text-embedding-ada-002-v2", "text-embedding-ada-002", True),
        ("vendor-embed-2024-05-13", "vendor-embed", True),
        ("mistral-embed", "mistral-embed-2312", True),
        ("mistral-embed-2312", "mistral-embed-2505", False),
        ("text-embedding-3-large", "text-embedding-3-small", False),
        ("text-embedding-3-small-fast", "text-embedding-3-small", False),
        ("voyage-3.5", "voyage-3", False),
        ("voyage-3-large", "voyage-3", False),
        ("bge", "bge-m3", False),
    ],
)
def test_a_reply_may_name_a_dated_or_numbered_form_of_what_was_asked_and_no_other(
    answered: str, asked: str, same: bool
) -> None:
    assert is_form_of(answered, asked) is same
