"""A sentence-transformers folder is read as the library reads it, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from embedmigrate.embedders.st_folder import read_folder
from embedmigrate.errors import ConfigError, UnsupportedModel
from tests.embedders.handmade_models import (
    WIDTH,
    identify,
    write_json,
    write_onnx,
    write_st_folder,
    write_tokenizer,
)

ONNX = {"provider": "onnx", "path": "."}


def test_everything_that_is_not_said_comes_from_the_folder(tmp_path: Path) -> None:
    write_st_folder(
        tmp_path,
        pooling={"word_embedding_dimension": WIDTH, "pooling_mode_cls_token": True},
        prompts={"prompts": {"query": "query: ", "passage": "passage: "}},
        transformer={"max_seq_length": 7, "do_lower_case": False},
    )
    model = identify(tmp_path, name="tiny", **ONNX)
    assert (model.name, model.dimensions, model.pooling) == ("tiny", WIDTH, "cls")
    assert (model.normalize, model.max_tokens, model.special_tokens) == (True, 7, True)
    assert (model.document_prompt, model.query_prompt) == ("passage: ", "query: ")


def test_what_is_said_wins_over_the_folder(tmp_path: Path) -> None:
    write_st_folder(tmp_path, prompts={"prompts": {"query": "query: ", "document": "text: "}})
    model = identify(
        tmp_path,
        **ONNX,
        name="tiny",
        pooling="max",
        normalize=False,
        max_tokens=9,
        special_tokens=False,
        dimensions=4,
        document_prompt="",
        query_prompt="q ",
    )
    assert (model.pooling, model.normalize, model.max_tokens) == ("max", False, 9)
    assert (model.special_tokens, model.dimensions) == (False, 4)
    assert (model.document_prompt, model.query_prompt) == ("", "q ")


def test_two_providers_read_one_folder_as_one_space_but_for_the_weights(tmp_path: Path) -> None:
    write_st_folder(tmp_path, prompts={"prompts": {"query": "query: ", "document": "text: "}})
    onnx, torch = (
        identify(tmp_path, provider=provider, path=".")
        for provider in ("onnx", "sentence-transformers")
    )
    spaces = [
        {
            **model.space(),
            "artifacts": {
                k: v for k, v in model.artifacts.items() if k.partition("/")[0] != "weights"
            },
        }
        for model in (onnx, torch)
    ]
    assert spaces[0] == spaces[1]
    assert onnx.query_prompt == torch.query_prompt
    assert onnx.artifacts["weights"] != torch.artifacts["weights"]
    assert onnx.fingerprint != torch.fingerprint


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": ["cls"]}, "cls"),
        ({"pooling_mode": "lasttoken", "include_prompt": True}, "last"),
    ],
)
def test_old_and_new_forms_of_pooling_are_understood(
    tmp_path: Path, config: dict[str, Any], expected: str
) -> None:
    write_st_folder(tmp_path, pooling={"embedding_dimension": WIDTH, **config})
    settings = read_folder(tmp_path)
    assert (settings.pooling, settings.width) == (expected, WIDTH)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "mean + cls"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean_sqrt_len"),
        ({"pooling_mode": "weightedmean"}, "weightedmean"),
        ({"pooling_mode_mean_tokens": True, "include_prompt": False}, "leaves the prompt out"),
        ({"word_embedding_dimension": 6}, "not said"),
    ],
)
def test_other_poolings_are_refused_by_name(
    tmp_path: Path, config: dict[str, Any], found: str
) -> None:
    write_st_folder(tmp_path, pooling=config)
    with pytest.raises(UnsupportedModel) as caught:
        identify(tmp_path, **ONNX)
    assert found in str(caught.value.found)


@pytest.mark.parametrize(
    ("modules", "found"),
    [
        (("Transformer", "Pooling", "Dense", "Normalize"), "dense layer"),
        (("Router",), "another encoder for each side"),
        (("Asym", "Normalize"), "another encoder for each side"),
        (("WordEmbeddings", "WordWeights", "Pooling"), "weights for each word"),
        (("CLIPModel",), "images"),
        (("MLMTransformer", "SpladePooling"), "sparse vectors"),
        (("sentence_transformers.sparse_encoder.modules.SparseStaticEmbedding",), "sparse"),
        (("Transformer", "Dense"), "dense layer"),
        (("Transformer",), "one vector for each token"),
        (("Transformer", "Normalize"), "one vector for each token"),
        (("Transformer", "MultiVectorMask"), "many vectors for a text"),
        (("BoW",), "BoW"),
        ((), "no module"),
        (("custom_st.Transformer", "Pooling"), "code of its own (custom_st.Transformer)"),
    ],
)
@pytest.mark.parametrize("provider", ["onnx", "sentence-transformers", "static"])
def test_a_model_without_one_dense_vector_a_text_is_refused_with_what_was_found(
    tmp_path: Path, modules: tuple[str, ...], found: str, provider: str
) -> None:
    write_st_folder(tmp_path, modules=modules)
    with pytest.raises(UnsupportedModel) as caught:
        identify(tmp_path, provider=provider, path=".")
    assert found in str(caught.value.found)
    assert caught.value.next_step


@pytest.mark.parametrize("kind", ["SparseEncoder", "CrossEncoder", "MultiVectorEncoder"])
def test_another_kind_of_model_is_refused_by_its_own_word(tmp_path: Path, kind: str) -> None:
    write_st_folder(tmp_path, prompts={"model_type": kind})
    with pytest.raises(UnsupportedModel, match=kind):
        identify(tmp_path, **ONNX)


@pytest.mark.parametrize(
    "setting",
    [
        {"do_lower_case": True},
        {"transformer_task": "fill-mask"},
        {"module_output_name": "sentence_embedding"},
        {"modality_config": {"image": {}}},
        {"query_expansion": {"length": 32}},
        {"processing_kwargs": {"text": {"padding": "max_length"}}},
    ],
)
def test_settings_that_would_change_vectors_unseen_are_refused(
    tmp_path: Path, setting: dict[str, Any]
) -> None:
    write_st_folder(tmp_path, transformer={"max_seq_length": 8, **setting})
    with pytest.raises(UnsupportedModel) as caught:
        identify(tmp_path, **ONNX)
    assert next(iter(setting)).split("_")[0] in str(caught.value.found)


def test_the_wrong_provider_is_told_the_right_one(tmp_path: Path) -> None:
    write_st_folder(tmp_path / "a", modules=("StaticEmbedding", "Normalize"))
    write_st_folder(tmp_path / "b")
    for provider in ("onnx", "sentence-transformers"):
        with pytest.raises(UnsupportedModel) as caught:
            identify(tmp_path, provider=provider, path="a")
        assert caught.value.next_step == 'set provider = "static"'
    with pytest.raises(UnsupportedModel, match='provider = "onnx"'):
        identify(tmp_path, provider="static", path="b")


@pytest.mark.parametrize(
    ("prompts", "document", "query"),
    [
        ({}, "", ""),
        ({"prompts": {}}, "", ""),
        ({"prompts": {"query": "q: "}}, "", "q: "),
        ({"prompts": {"query": "q: ", "passage": "p: "}}, "p: ", "q: "),
        ({"prompts": {"query": "q: ", "document": "d: ", "passage": "p: "}}, "d: ", "q: "),
        ({"prompts": {"query": None, "document": ""}, "default_prompt_name": None}, "", ""),
        ({"prompts": {"classify": "c: "}}, "", ""),
    ],
)
def test_prompts_go_to_the_side_that_they_are_named_for(
    tmp_path: Path, prompts: dict[str, Any], document: str, query: str
) -> None:
    write_st_folder(tmp_path, prompts=prompts)
    model = identify(tmp_path, **ONNX)
    assert (model.document_prompt, model.query_prompt) == (document, query)


@pytest.mark.parametrize(
    ("prompts", "side"),
    [
        ({"prompts": {"query": "q: "}, "default_prompt_name": "query"}, "document"),
        ({"prompts": {"document": "", "passage": "p: "}}, "document"),
        ({"prompts": {"document": "d: "}, "default_prompt_name": "document"}, "query"),
    ],
)
def test_a_prompt_that_the_folder_leaves_open_must_be_said(
    tmp_path: Path, prompts: dict[str, Any], side: str
) -> None:
    write_st_folder(tmp_path, prompts=prompts)
    with pytest.raises(ConfigError, match=f"leaves its {side} prompt open") as caught:
        identify(tmp_path, **ONNX)
    assert f'{side}_prompt = "…"' in str(caught.value.next_step)
    said = {f"{side}_prompt": "x "}
    assert getattr(identify(tmp_path, **ONNX, **said), f"{side}_prompt") == "x "


@pytest.mark.parametrize(
    ("transformer", "tokenizer", "positions", "expected"),
    [
        ({"max_seq_length": 8}, 32, 64, 8),
        ({"max_seq_length": 128}, 32, 64, 128),
        ({"max_seq_length": None}, 32, 64, 32),
        ({}, 512, 64, 64),
        ({}, 1e30, 64, 64),
        ({}, 16, None, 16),
        ({}, None, None, 3),  # the truncation of tokenizer.json, at last
    ],
)
def test_the_token_limit_is_the_first_that_is_said(
    tmp_path: Path,
    transformer: dict[str, Any],
    tokenizer: float | None,
    positions: int | None,
    expected: int,
) -> None:
    write_st_folder(tmp_path, transformer=transformer or {"do_lower_case": False})
    write_json(tmp_path / "tokenizer_config.json", {"model_max_length": tokenizer})
    write_json(tmp_path / "config.json", {"max_position_embeddings": positions})
    assert identify(tmp_path, **ONNX).max_tokens == expected


def test_modules_may_lie_in_folders_of_their_own(tmp_path: Path) -> None:
    write_st_folder(tmp_path)
    home = tmp_path / "0_Transformer"
    home.mkdir()
    for name in ("tokenizer.json", "sentence_bert_config.json", "config.json"):
        (tmp_path / name).rename(home / name)
    (tmp_path / "model.onnx").unlink()
    write_onnx(home / "onnx" / "model.onnx")
    modules = (tmp_path / "modules.json").read_text("utf-8")
    (tmp_path / "modules.json").write_text(modules.replace('""', '"0_Transformer"'), "utf-8")
    model = identify(tmp_path, **ONNX)
    assert (model.max_tokens, model.pooling) == (8, "mean")


@pytest.mark.parametrize("content", ["", "[1]", '[{"type": 1}]', "[[]]"])
def test_a_damaged_modules_file_is_named(tmp_path: Path, content: str) -> None:
    write_st_folder(tmp_path)
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(ConfigError, match=r"modules\.json"):
        identify(tmp_path, **ONNX)


@pytest.mark.parametrize("missing", ["pooling", "max_tokens"])
def test_a_folder_that_says_nothing_leaves_it_to_the_declaration(
    tmp_path: Path, missing: str
) -> None:
    write_onnx(tmp_path / "model.onnx")
    write_tokenizer(tmp_path / "tokenizer.json", truncation=None)
    said: dict[str, Any] = {"pooling": "mean", "max_tokens": 8}
    assert identify(tmp_path, **ONNX, **said).normalize is False
    del said[missing]
    with pytest.raises(ConfigError, match=f"does not say its {missing}"):
        identify(tmp_path, **ONNX, **said)
