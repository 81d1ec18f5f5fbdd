"""Provider ``static``: the mean of token vectors, exactly as the models' own libraries make it."""

from __future__ import annotations

import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

from embedmigrate.embedders.files import package_folder
from embedmigrate.embedders.safetensors_file import read_header
from embedmigrate.errors import BadAnswer, ConfigError, UnsupportedModel
from tests.embedders.handmade_models import (
    TEXTS,
    WIDTH,
    WORDLLAMA,
    WORDS,
    identify,
    ids,
    load,
    table,
    write_json,
    write_static,
    write_tokenizer,
)

TINY: dict[str, Any] = {"provider": "static", "path": "."}
RED, DEEP = (table()[WORDS.index(word)] for word in ("red", "deep"))


def assert_close(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


def test_wordllama_is_identified_from_its_files_alone(tmp_path: Path) -> None:
    model = identify(tmp_path, name="wordllama", **WORDLLAMA)
    assert (model.dimensions, model.max_tokens, model.special_tokens) == (256, None, False)
    assert sorted(model.artifacts) == ["tokenizer", "weights"]


def test_vectors_equal_those_of_the_wordllama_library(tmp_path: Path) -> None:
    script = """
import sys, pathlib, numpy, wordllama
from tests.embedders.handmade_models import TEXTS
texts = [text for text in TEXTS if text.isprintable() or "zero width" in text]
llama = wordllama.WordLlama.load(
    cache_dir=pathlib.Path(wordllama.__file__).parent, disable_download=True)
numpy.save(sys.argv[1], llama.embed(texts, norm=True))
"""
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "golden.npy")],
        check=True,
        capture_output=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""},
    )
    texts = [text for text in TEXTS if text.isprintable() or "zero width" in text]
    assert_close(
        load(tmp_path, **WORDLLAMA).embed_documents(texts), np.load(tmp_path / "golden.npy")
    )


def test_a_vector_never_depends_on_the_other_texts_of_the_call(tmp_path: Path) -> None:
    embedder = load(tmp_path, **WORDLLAMA)
    together = embedder.embed_documents(TEXTS)
    alone = np.concatenate([embedder.embed_documents([text]) for text in TEXTS])
    backwards = embedder.embed_documents(TEXTS[::-1])[::-1]
    assert np.array_equal(together, alone)
    assert np.array_equal(together, backwards)
    assert together.dtype == np.float32
    assert together.flags.c_contiguous


def test_four_threads_get_the_answers_that_one_gets(tmp_path: Path) -> None:
    embedder = load(tmp_path, **WORDLLAMA)
    expected = embedder.embed_documents(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(embedder.embed_documents, [TEXTS] * 16):
            assert np.array_equal(found, expected)


def test_calls_of_many_texts_are_worked_off_in_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = load(tmp_path, **WORDLLAMA)
    expected = embedder.embed_documents(TEXTS * 3)
    monkeypatch.setattr("embedmigrate.embedders.static._WINDOW", 5)
    assert np.array_equal(embedder.embed_documents(TEXTS * 3), expected)


def test_a_text_longer_than_the_slice_is_still_one_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = load(tmp_path, **WORDLLAMA)
    expected = embedder.embed_documents(TEXTS)
    monkeypatch.setattr("embedmigrate.embedders.static._SLICE", 7)
    assert_close(embedder.embed_documents(TEXTS), expected)


def test_the_table_stays_in_its_file(tmp_path: Path) -> None:
    path = package_folder("wordllama") / WORDLLAMA["weights"]
    (tensor,) = read_header(path).values()
    assert isinstance(tensor.data, np.memmap)
    assert (tensor.dtype, tensor.shape) == ("F16", (32000, 256))


@pytest.mark.parametrize("text", ["", "   "])
def test_a_text_without_tokens_is_a_bad_answer_and_no_division_by_zero(
    tmp_path: Path, text: str
) -> None:
    write_static(tmp_path)
    embedder = load(tmp_path, **TINY, normalize=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadAnswer, match="zero vectors") as caught:
            embedder.embed_documents(["red", text])
    assert caught.value.found == "1 of 2 vectors"


def test_no_text_gives_no_vector(tmp_path: Path) -> None:
    write_static(tmp_path)
    assert load(tmp_path, **TINY).embed_documents([]).shape == (0, WIDTH)


def test_one_text_instead_of_a_list_is_an_error(tmp_path: Path) -> None:
    write_static(tmp_path)
    with pytest.raises(TypeError, match="one str"):
        load(tmp_path, **TINY).embed_queries("red")


def test_the_mean_is_over_every_token_whatever_the_tokenizer_file_says(tmp_path: Path) -> None:
    write_static(tmp_path)
    text = "red deep deep deep red deep deep"
    expected = np.mean(table()[ids(text, special=False)], axis=0)
    assert_close(load(tmp_path, **TINY).embed_documents([text])[0], expected)


def test_a_truncation_or_special_tokens_must_be_asked_for(tmp_path: Path) -> None:
    write_static(tmp_path)
    short = load(tmp_path, **TINY, max_tokens=2).embed_documents(["red deep blue"])[0]
    assert_close(short, (RED + DEEP) / 2)
    marked = load(tmp_path, **TINY, special_tokens=True).embed_documents(["red deep"])[0]
    assert_close(marked, table()[ids("red deep", special=True)].mean(axis=0))


def test_prompts_stand_before_the_texts_of_their_side_only(tmp_path: Path) -> None:
    write_static(tmp_path)
    embedder = load(tmp_path, **TINY, document_prompt="passage ", query_prompt="query ")
    plain = load(tmp_path, **TINY)
    documents = embedder.embed_documents(["red", "blue"])
    queries = embedder.embed_queries(["red", "blue"])
    assert np.array_equal(documents, plain.embed_documents(["passage red", "passage blue"]))
    assert np.array_equal(queries, plain.embed_documents(["query red", "query blue"]))


def test_a_matryoshka_cut_is_normalised_again(tmp_path: Path) -> None:
    write_static(tmp_path)
    cut = load(tmp_path, **TINY, dimensions=3, normalize=True).embed_documents(["red deep"])
    expected = (RED + DEEP)[:3]
    assert cut.shape == (1, 3)
    assert cut.flags.c_contiguous
    assert_close(cut[0], expected / np.linalg.norm(expected))
    uncut = load(tmp_path, **TINY, dimensions=3).embed_documents(["red deep"])
    assert_close(uncut[0], expected / 2)


def test_more_dimensions_than_there_are_is_an_error(tmp_path: Path) -> None:
    write_static(tmp_path)
    with pytest.raises(ConfigError, match="fewer dimensions"):
        identify(tmp_path, **TINY, dimensions=WIDTH + 1)


def test_the_settings_are_those_of_the_pinned_model_not_of_the_declaration(tmp_path: Path) -> None:
    write_static(tmp_path)
    model = identify(tmp_path, **TINY, document_prompt="passage ", normalize=True)
    pinned = load(tmp_path, model, **TINY, document_prompt="other ", normalize=False)
    assert np.array_equal(
        pinned.embed_documents(["red"]),
        load(tmp_path, **TINY, normalize=True).embed_documents(["passage red"]),
    )


@pytest.mark.parametrize("name", ["embedding.weight", "anything"])
def test_the_one_table_is_found_whatever_its_name(tmp_path: Path, name: str) -> None:
    write_static(tmp_path, {name: table()})
    assert_close(load(tmp_path, **TINY).embed_documents(["red"])[0], RED)


@pytest.mark.parametrize(("dtype", "precision"), [("F64", 1e-7), ("F16", 2e-3), ("BF16", 1e-2)])
def test_tables_of_other_precision_are_computed_with_in_float32(
    tmp_path: Path, dtype: str, precision: float
) -> None:
    exact = table()
    if dtype == "BF16":
        bits = (exact.view(np.uint32) >> 16).astype(np.uint16)
        exact = (bits.astype(np.uint32) << 16).view(np.float32)
        save_file({"embedding.weight": bits}, tmp_path / "model.safetensors")
        path = tmp_path / "model.safetensors"
        path.write_bytes(path.read_bytes().replace(b'"U16"', b'"BF16"').replace(b"  ", b" ", 1))
        write_tokenizer(tmp_path / "tokenizer.json")
    else:
        stored = exact.astype({"F64": np.float64, "F16": np.float16}[dtype])
        exact = stored.astype(np.float32)
        write_static(tmp_path, {"embedding.weight": stored})
    found = load(tmp_path, **TINY).embed_documents(["red deep"])[0]
    rows = exact[ids("red deep", special=False)]
    assert_close(found, rows.mean(axis=0))
    np.testing.assert_allclose(found, (RED + DEEP) / 2, atol=precision * 2)


class TestModel2Vec:
    def test_unknown_words_are_left_out_and_the_limit_is_512(self, tmp_path: Path) -> None:
        write_static(tmp_path, {"embeddings": table()})
        model = identify(tmp_path, **TINY)
        assert (model.max_tokens, model.normalize) == (512, False)
        found = load(tmp_path, **TINY).embed_documents(["red never-heard-of deep"])[0]
        assert_close(found, (RED + DEEP) / 2)

    def test_its_own_configuration_is_read(self, tmp_path: Path) -> None:
        write_static(tmp_path, {"embeddings": table()})
        write_json(tmp_path / "config.json", {"normalize": True, "max_length": None})
        model = identify(tmp_path, **TINY)
        assert (model.max_tokens, model.normalize) == (None, True)

    def test_tokens_may_share_rows_and_have_weights(self, tmp_path: Path) -> None:
        mapping = np.array([0, 1, 2, 2, 0, 1, 2, 0, 1, 2])
        weights = np.linspace(0.1, 1, len(WORDS))
        rows = table(rows=3)
        write_static(tmp_path, {"embeddings": rows, "mapping": mapping, "weights": weights})
        tokens = ids("red deep red", special=False)
        expected = np.mean([rows[mapping[token]] * weights[token] for token in tokens], axis=0)
        assert_close(load(tmp_path, **TINY).embed_documents(["red deep red"])[0], expected)


def test_sentence_transformers_static_embedding_counts_unknown_words(tmp_path: Path) -> None:
    write_static(tmp_path)
    types = ("StaticEmbedding", "Normalize")
    modules = [{"path": "", "type": f"sentence_transformers.models.{name}"} for name in types]
    write_json(tmp_path / "modules.json", modules)
    assert identify(tmp_path, **TINY).normalize
    found = load(tmp_path, **TINY, normalize=False).embed_documents(["red unheard"])[0]
    assert_close(found, (RED + table()[1]) / 2)


@pytest.mark.parametrize(
    ("tensors", "found"),
    [
        ({"a": table(), "b": table()}, "a [10, 6], b [10, 6]"),
        ({"a": table()[0]}, "a [6]"),
        ({"embedding.weight": table(), "linear.weight": table()}, "linear.weight"),
        ({"embedding.weight": table().astype(np.int8)}, "I8"),
    ],
)
def test_weights_that_are_not_one_table_are_refused(
    tmp_path: Path, tensors: dict[str, npt.NDArray[Any]], found: str
) -> None:
    write_static(tmp_path, tensors)
    with pytest.raises(UnsupportedModel) as caught:
        identify(tmp_path, **TINY)
    assert found in str(caught.value.found)


def test_a_tokenizer_of_another_table_is_refused(tmp_path: Path) -> None:
    write_static(tmp_path, {"embedding.weight": table(rows=8)})
    with pytest.raises(ConfigError, match="tokens that have no vector"):
        load(tmp_path, **TINY)


def test_every_truncation_of_the_weights_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    write_static(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match=r"model\.safetensors is not a sound"):
            identify(tmp_path, **TINY)
