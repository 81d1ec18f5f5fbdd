"""Is a model still itself? Real models, really changed."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedmigrate import Collection, command, resolve
from embedmigrate.embedders.base import Embedder, Vectors
from embedmigrate.embedders.local import LocalEmbedder
from embedmigrate.embedders.measuring import behaviour, measured, record_of
from embedmigrate.errors import Drifted
from embedmigrate.models import EmbeddingModel
from embedmigrate.models.canaries import CANARIES, canary_digest
from embedmigrate.models.drift import DriftReport, compare, judge, threshold_of
from embedmigrate.models.pin_file import read_pins, write_pin
from embedmigrate.models.witness import Behaviour, Witness, WitnessRecord
from tests.command_line import run
from tests.workspace import ARTICLES, Workspace, documents, wait_for


def test_the_canaries_never_change() -> None:
    assert len(CANARIES) == 48
    assert canary_digest() == (
        "sha256:c392f84aeb04df3210e4d2c032526a34deeced566736c773dac6094f062b023f"
    ), "a recorded witness means nothing for other texts"


@pytest.fixture(scope="module")
def minilm_project(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace.make(
        tmp_path_factory.mktemp("minilm") / "project",
        corpus=documents(4),
        collections=ARTICLES.replace('model = "wordllama"', 'model = "minilm"'),
        pin=("minilm",),
    )


@pytest.fixture(scope="module")
def minilm(minilm_project: Workspace) -> EmbeddingModel:
    return resolve.pinned(minilm_project.settings, "minilm")


@pytest.fixture(scope="module")
def record(minilm_project: Workspace, minilm: EmbeddingModel) -> WitnessRecord:
    (found,) = resolve.witness_of(minilm_project.settings, minilm).records
    return found


@pytest.fixture(scope="module")
def loaded(minilm_project: Workspace, minilm: EmbeddingModel) -> Iterator[Embedder]:
    with closing(resolve.load_embedder(minilm_project.settings, minilm)) as embedder:
        yield embedder


def changed(project: Workspace, model: EmbeddingModel, **change: Any) -> DriftReport:
    """The verdict on what answers in the model's place, loaded from the same files."""
    config = project.settings.model("minilm")
    other = model.model_copy(update=change)
    cls = project.settings.embedder_class("minilm")
    with closing(cls.load(config, other, project.root)) as embedder:
        (recorded,) = resolve.witness_of(project.settings, model).records
        return compare(recorded, behaviour(embedder))


def test_the_unchanged_model_raises_no_alarm(record: WitnessRecord, loaded: Embedder) -> None:
    report = compare(record, measured(loaded))
    assert report.verdict == "OK" and report.largest < 1e-7 and report.moved == 0
    assert report.neighbourhood is not None
    assert (report.neighbourhood.overlap, report.neighbourhood.finds_itself) == (1.0, 1.0)


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": 128},
        {"max_tokens": 64},
        {"max_tokens": 255},
        {"pooling": "cls"},
        {"pooling": "max"},
        {"special_tokens": False},
        {"document_prompt": "passage: "},
        {"query_prompt": "query: "},
    ],
    ids=str,
)
def test_a_real_change_raises_the_alarm(
    minilm_project: Workspace, minilm: EmbeddingModel, change: dict[str, Any]
) -> None:
    report = changed(minilm_project, minilm, **change)
    assert report.verdict == "DRIFT" and report.moved > 0
    sides = {figure.side for figure in report.figures if figure.distance > report.threshold}
    assert sides == ({"query"} if "query_prompt" in change else {"document"}) or (
        sides == {"document", "query"} and "document_prompt" not in change
    )


def test_lost_normalisation_shows_in_the_norms_alone(
    minilm_project: Workspace, minilm: EmbeddingModel
) -> None:
    report = changed(minilm_project, minilm, normalize=False)
    assert report.verdict == "DRIFT" and report.largest < 1e-6
    assert any("norms changed" in reason for reason in report.reasons)


@pytest.mark.parametrize("shift", [0.05, 0.10, 0.15, 1e-5])
def test_a_synthetic_shift_raises_the_alarm(record: WitnessRecord, shift: float) -> None:
    seen = record.behaviour
    report = compare(
        record, replace(seen, documents=shifted(seen.documents, shift), queries=seen.queries)
    )
    assert report.verdict == "DRIFT"
    assert report.largest == pytest.approx(shift, rel=0.05)


def shifted(vectors: Vectors, distance: float) -> Vectors:
    """Unit vectors turned towards a fixed direction so that 1 - cosine is ``distance``."""
    other = np.random.default_rng(7).standard_normal(vectors.shape[1])
    across = other - (vectors @ other)[:, None] * vectors
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    cosine = 1 - distance
    return np.asarray(cosine * vectors + np.sqrt(1 - cosine**2) * across, np.float32)


def test_another_model_of_the_same_dimension_is_told_with_its_consequences(
    record: WitnessRecord,
) -> None:
    seen = record.behaviour
    strange = np.random.default_rng(1).standard_normal(seen.documents.shape).astype(np.float32)
    strange /= np.linalg.norm(strange, axis=1, keepdims=True)
    report = compare(record, Behaviour(strange, strange))
    assert report.verdict == "DRIFT" and report.median > 0.5
    assert report.neighbourhood is not None and report.neighbourhood.finds_itself < 0.2


def test_another_dimension_is_drift(record: WitnessRecord) -> None:
    seen = record.behaviour
    report = compare(record, Behaviour(seen.documents[:, :128], seen.queries[:, :128]))
    assert report.verdict == "DRIFT" and "128 dimensions" in report.reasons[0]


class Noisy:
    """A model with noise of its own, as one that quantises its activations on the fly has."""

    runtime = "noisy"

    def __init__(self, embedder: Embedder, noise: float) -> None:
        self.model, self._embedder, self._noise = embedder.model, embedder, noise
        self._random = np.random.default_rng(3)

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        vectors = self._embedder.embed_documents(texts)
        noisy = vectors + self._random.normal(0, self._noise, vectors.shape)
        noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
        return np.asarray(noisy, np.float32)

    embed_queries = embed_documents


def test_noise_of_its_own_hides_small_changes_and_the_witness_says_which(loaded: Embedder) -> None:
    noisy: Any = Noisy(loaded, 1e-3)
    seen = measured(noisy)
    assert 1e-5 < seen.noise < 1e-2
    recorded = record_of(noisy, seen)
    assert threshold_of(seen.noise) == 10 * seen.noise
    assert compare(recorded, measured(noisy)).verdict == "OK"
    assert compare(recorded, measured(loaded)).verdict == "OK", "hidden by the noise"
    louder: Any = Noisy(loaded, 2e-2)
    assert compare(recorded, measured(louder)).verdict == "DRIFT"


# -- platforms ----------------------------------------------------------------------------------


def test_an_unseen_platform_warns_as_long_as_kernels_can_differ_that_much(
    record: WitnessRecord,
) -> None:
    witness, seen = Witness((record,)), record.behaviour
    near = replace(seen, documents=shifted(seen.documents, 1e-3))
    far = replace(seen, documents=shifted(seen.documents, 0.05))
    assert judge(witness, near, "another runtime", "another processor").verdict == "WARN"
    assert judge(witness, far, "another runtime", "another processor").verdict == "DRIFT"
    assert judge(witness, near, record.runtime, record.processor).verdict == "DRIFT"
    assert judge(Witness(), seen, "any", "any").verdict == "WARN"


def test_a_record_survives_its_file(record: WitnessRecord) -> None:
    again = WitnessRecord.load(json.loads(json.dumps(record.dump())))
    assert again.digest == record.digest
    assert compare(again, record.behaviour).largest < 1e-7


def forget_platform(workspace: Workspace, name: str) -> None:
    """Make the pin file one that was written on another machine."""
    (pin,) = read_pins(workspace.settings.pins, name)
    (known,) = pin.witness.records
    write_pin(
        workspace.settings.pins, replace(pin, witness=Witness((replace(known, processor="z80"),)))
    )


def test_drift_adds_the_record_of_an_unseen_platform_once(workspace: Workspace) -> None:
    forget_platform(workspace, "wordllama")
    first = run(workspace.root, "drift", "wordllama", "--json")
    second = run(workspace.root, "drift", "wordllama", "--json")
    assert (first.code, second.code) == (0, 0)
    (entry,) = json.loads(first.out)["models"]
    assert (entry["verdict"], entry["record_added"]) == ("WARN", True)
    (entry,) = json.loads(second.out)["models"]
    assert (entry["verdict"], entry["record_added"]) == ("OK", False)
    assert len(read_pins(workspace.settings.pins, "wordllama")[0].witness.records) == 2


# -- the commands ---------------------------------------------------------------------------------


@pytest.fixture
def other_answers(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """From now on every local model answers as another one would, on the same files."""
    answer = LocalEmbedder._answer

    def swapped(self: LocalEmbedder, texts: Sequence[str], prompt: str) -> Vectors:
        return np.ascontiguousarray(answer(self, texts, prompt)[:, ::-1])

    monkeypatch.setattr(LocalEmbedder, "_answer", swapped)
    return monkeypatch


def test_drift_exits_3_with_the_canaries_that_moved(
    workspace: Workspace, other_answers: pytest.MonkeyPatch
) -> None:
    answer = run(workspace.root, "drift")
    assert answer.code == 3
    assert answer.out.count("DRIFT") == 2, "one line a model"
    assert "beside recorded vectors" in answer.out
    result = json.loads(run(workspace.root, "drift", "wordllama", "--json").out)
    assert result["holds"] is False and len(result["models"][0]["figures"]) == 2 * len(CANARIES)


def test_pinning_again_keeps_the_file_and_a_drifted_model_is_not_pinned_over(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = workspace.snapshot()
    assert command.pin(workspace.to_pin, "wordllama")["changed"] is False
    assert workspace.snapshot() == before

    answer = LocalEmbedder._answer
    monkeypatch.setattr(
        LocalEmbedder,
        "_answer",
        lambda self, texts, prompt: np.ascontiguousarray(answer(self, texts, prompt)[:, ::-1]),
    )
    with pytest.raises(Drifted, match="does not behave") as refusal:
        command.pin(workspace.to_pin, "wordllama")
    assert "--new-witness" in str(refusal.value)
    assert workspace.snapshot() == before

    old = read_pins(workspace.settings.pins, "wordllama")[0].model
    new = command.pin(workspace.to_pin, "wordllama", new_witness=True)
    assert new["reference"] != old.reference, "it is a new model"
    assert resolve.pinned(workspace.settings, "wordllama").reference == new["reference"]
    assert command.drift(workspace.settings, "wordllama")["holds"]


def test_restarts_and_threads_raise_no_alarm(workspace: Workspace) -> None:
    """The short form; `python -m benchmarks.drift FOLDER --runs 200` is the full one."""
    for threads in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "embedmigrate", "drift", "--json"],
            cwd=workspace.root,
            env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        verdicts = {entry["verdict"] for entry in json.loads(done.stdout)["models"]}
        assert verdicts == {"OK"}


# -- a running application -------------------------------------------------------------------------


def watched(tmp_path: Path, policy: str) -> Workspace:
    workspace = Workspace.make(
        tmp_path / "project",
        corpus=documents(8),
        collections=ARTICLES.replace(
            "also_accept = []", f'also_accept = []\nwitness_every = 0.1\non_drift = "{policy}"'
        ),
    )
    workspace.revision("wordllama", "first index")
    workspace.upgrade()
    return workspace


def test_a_running_application_refuses_to_answer_with_a_drifted_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[DriftReport] = []
    workspace = watched(tmp_path, "refuse")
    with Collection.open("articles", workspace.settings, on_drift=heard.append) as articles:
        assert articles.search("the stars").hits
        wait_for(lambda: articles.health()["witness"]["checks"], lambda checks: checks > 0)
        assert articles.health()["ok"] and heard == []

        answer = LocalEmbedder._answer
        with monkeypatch.context() as patched:
            patched.setattr(
                LocalEmbedder, "_answer", lambda self, *args: answer(self, *args)[:, ::-1].copy()
            )
            wait_for(lambda: len(heard), lambda count: count > 0)
            wait_for(lambda: articles.health()["ok"], lambda ok: not ok)
            with pytest.raises(Drifted, match="not itself"):
                articles.search("the stars")
        wait_for(lambda: articles.health()["ok"], bool)
        assert articles.search("the stars").hits, "it is itself again"
        assert articles.health()["witness"]["alarms"] >= 1


def test_an_application_may_choose_to_serve_and_be_told(
    tmp_path: Path, other_answers: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other_answers.undo()
    workspace = watched(tmp_path, "serve")
    with (
        caplog.at_level(logging.ERROR),
        Collection.open("articles", workspace.settings) as articles,
    ):
        answer = LocalEmbedder._answer
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(
                LocalEmbedder, "_answer", lambda self, *args: answer(self, *args)[:, ::-1].copy()
            )
            wait_for(lambda: articles.health()["witness"]["alarms"], lambda count: count > 0)
            assert articles.search("the stars").hits
    assert "has drifted" in caplog.text


def test_by_policy_the_witness_is_checked_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = watched(tmp_path, "refuse")
    workspace.edit_config("witness_every = 0.1", "witness_at_open = true")
    Collection.open("articles", workspace.settings).close()
    answer = LocalEmbedder._answer
    monkeypatch.setattr(
        LocalEmbedder, "_answer", lambda self, *args: answer(self, *args)[:, ::-1].copy()
    )
    with pytest.raises(Drifted):
        Collection.open("articles", workspace.settings)
    started = time.monotonic()
    with pytest.raises(Drifted):
        Collection.open("articles", workspace.settings)
    assert time.monotonic() - started < 20


def test_the_model_of_the_next_index_is_checked_before_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = watched(tmp_path, "refuse")
    workspace.edit_config("witness_every = 0.1", "witness_at_open = true")
    workspace.revision("wordllama-64", "shorter")
    workspace.upgrade(until_ready=True)
    answer = LocalEmbedder._answer

    def only_the_next_one(self: LocalEmbedder, *args: Any) -> Any:
        vectors = answer(self, *args)
        return vectors[:, ::-1].copy() if self.model.dimensions == 64 else vectors

    monkeypatch.setattr(LocalEmbedder, "_answer", only_the_next_one)
    with Collection.open("articles", workspace.settings) as articles:
        health = wait_for(articles.health, lambda health: health["candidate"]["open"])
        assert health["ok"] and health["witness"]["verdict"] == "OK"
        assert "wordllama-64@" in health["warnings"][0] and "not itself" in health["warnings"][0]
        with monkeypatch.context() as runner:
            runner.setattr(LocalEmbedder, "_answer", answer)
            command.cutover(workspace.settings)
        with pytest.raises(Drifted, match="wordllama-64@"):
            articles.search("the stars")
        assert articles.health()["witness"]["verdict"] == "DRIFT"
        command.rollback(workspace.settings, "articles", reason="it drifted")
        wait_for(lambda: articles.health()["ok"], bool)
        assert articles.search("the stars").hits
