"""Models behind a server from pin to search: their witness is all that says they are themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedmigrate import Collection, command, resolve
from embedmigrate.catalog import Catalog, indexes, routes
from embedmigrate.embedders.base import Vectors
from embedmigrate.engine.job import Silent
from embedmigrate.errors import (
    ConfigError,
    DeadLetters,
    Drifted,
    NameMismatch,
    NotProven,
    Temporary,
)
from embedmigrate.models.canaries import CANARIES
from embedmigrate.models.pin_file import read_pins, write_pin
from embedmigrate.models.witness import Witness
from tests.command_line import run
from tests.embedding_server import Brain, EmbeddingServer, minilm, serving, wordllama
from tests.workspace import ARTICLES, GENERAL, Workspace, documents

SERVED = """
[models.served]
provider = "openai"
vendor = "acme"
model = "acme-embed"
pin = "witness"
base_url = "URL"
api_key = "sk-swordfish"
dimensions = 256
normalize = true
parameters = { task = "retrieval" }
"""
CANARY_TEXTS = frozenset(canary.text for canary in CANARIES)


@pytest.fixture(scope="module")
def itself() -> Brain:
    return wordllama()


@pytest.fixture(scope="module")
def impostor() -> Brain:
    """Another real model of the same dimension."""
    return minilm(256)


@pytest.fixture
def server(itself: Brain) -> Iterator[EmbeddingServer]:
    with serving(EmbeddingServer(itself)) as it:
        yield it


@pytest.fixture
def declared(tmp_path: Path, server: EmbeddingServer) -> Workspace:
    """A collection of forty documents in five batches, each a window; its model is not pinned."""
    workspace = Workspace.make(
        tmp_path / "project",
        general=GENERAL + "batch_size = 8\nwitness_batches = 1\n",
        collections=ARTICLES.replace('"wordllama"', '"served"') + SERVED.replace("URL", server.url),
        pin=(),
    )
    workspace.edit_config("also_accept = []", 'also_accept = ["served"]')
    return workspace


@pytest.fixture
def witnessed(declared: Workspace, server: EmbeddingServer) -> Workspace:
    """The same with its model measured and a first revision pending."""
    command.pin(declared.to_pin, "served")
    declared.revision("served", "first index")
    server.requests.clear()
    return declared


def is_canary(request: dict[str, Any]) -> bool:
    return set(request["input"]) <= CANARY_TEXTS


def documents_sent(server: EmbeddingServer) -> list[str]:
    """Texts of documents, one text a call that is asked for again by itself left out."""
    calls = [it["input"] for it in server.requests if len(it["input"]) > 1]
    return [text for call in calls for text in call if text not in CANARY_TEXTS]


def stored(workspace: Workspace) -> dict[str, Vectors]:
    """The vectors of the live index, by document id."""
    settings = workspace.settings
    with closing(Catalog(settings.catalog_url, create=False)) as catalog, catalog.read() as it:
        live = routes.get(it, "articles").live_index
        assert live is not None
        container = indexes.get(it, live).name
    with closing(settings.open_store("articles").reader(container)) as reader:
        keys = [(state.id, state.chunk) for state in reader.states()]
        return {id: row for (id, _), row in zip(keys, reader.vectors(keys), strict=True)}


def made_by(brain: Brain, count: int = 40) -> dict[str, Vectors]:
    """What the live index has to hold."""
    made = documents(count)
    vectors = brain([f"{it['title']} {it['text']}" for it in made])
    return {it["_id"]: row for it, row in zip(made, vectors, strict=True)}


def assert_same(found: dict[str, Vectors], expected: dict[str, Vectors]) -> None:
    assert found.keys() == expected.keys()
    for id, vector in expected.items():
        np.testing.assert_allclose(found[id], vector, atol=1e-6, err_msg=id)


# -- the way of a witnessed model --------------------------------------------------------------


def test_a_witnessed_model_is_pinned_migrated_to_and_searched(
    declared: Workspace, server: EmbeddingServer, itself: Brain
) -> None:
    result = command.pin(declared.to_pin, "served")
    declared.revision("served", "first index")
    (entry,) = declared.upgrade()

    assert entry["live"] and entry["assurance"] == "witnessed"
    assert_same(stored(declared), made_by(itself))
    assert result["model"]["witness"].startswith("sha256:")
    assert result["model"]["artifacts"] == {}
    with Collection.open("articles", declared.settings) as articles:
        hits = articles.search("a sloop in the wind", k=3).hits
    assert {hit.metadata["topic"] for hit in hits} == {"sailing"}
    assert command.verify(declared.settings)["holds"]
    assert {request["task"] for request in server.requests} == {"retrieval"}


def test_every_report_says_witnessed_and_none_says_pinned(declared: Workspace) -> None:
    root = declared.root
    said = [run(root, "pin", "served"), run(root, "drift")]
    declared.revision("served", "first index")
    said += [run(root, "plan"), run(root, "upgrade"), run(root, "status")]
    declared.edit_config('task = "retrieval"', 'task = "clustering"')
    run(root, "pin", "served")
    declared.revision("served", "another task")
    said += [run(root, "upgrade"), run(root, "status")]

    for answer in said:
        assert answer.code == 0, answer.err
        assert "witnessed" in answer.out, answer.out
        assert "pinned" not in answer.out + answer.err
    assert said[-1].out.count("(witnessed)") == 2, "live and retained"
    for args in (["plan"], ["status"], ["drift"], ["pin", "served"]):
        assert '"pinned"' not in run(root, *args, "--json").out
    status = declared.status()
    assert [status["live"]["assurance"], status["retained"][0]["assurance"]] == ["witnessed"] * 2


def test_a_stated_digest_pins_and_is_called_so(declared: Workspace) -> None:
    declared.edit_config('pin = "witness"', f'digest = "sha256:{"ab" * 32}"')

    result = command.pin(declared.to_pin, "served")

    assert result["assurance"] == "pinned"
    assert result["model"]["revision"] == "sha256:" + "ab" * 32
    assert result["model"]["witness"].startswith("sha256:")
    assert "witnessed" not in run(declared.root, "drift").out


def test_what_is_declared_is_found_again_without_asking_the_server(
    witnessed: Workspace, server: EmbeddingServer
) -> None:
    settings = witnessed.settings

    pin = resolve.pin_of(settings, "served")
    command.plan(settings)
    command.status(settings)
    command.check(settings)

    assert server.requests == []
    assert pin.model.witness == pin.witness.records[0].digest
    assert pin.effective == {
        "dimensions": 256,
        "unit_vectors": True,
        "answers_as": "acme-embed",
    }


def test_a_declaration_that_was_never_measured_is_not_loaded(declared: Workspace) -> None:
    settings = declared.to_pin
    cls = settings.embedder_class("served")
    model = cls.identify("served", settings.model("served"), settings.root)
    with pytest.raises(ConfigError, match="no configured model is pinned"):
        resolve.load_embedder(settings, model)


def test_moving_to_another_host_is_no_other_model(
    witnessed: Workspace, server: EmbeddingServer, itself: Brain
) -> None:
    before = resolve.pinned(witnessed.settings, "served")
    with serving(EmbeddingServer(itself)) as mirror:
        witnessed.edit_config(server.url, mirror.url)
        assert resolve.pinned(witnessed.settings, "served") == before
        assert not command.pin(witnessed.to_pin, "served")["changed"]
    assert server.requests == []


# -- measuring it again ------------------------------------------------------------------------


def trembling(brain: Brain, relative: float) -> Callable[[Sequence[str]], Vectors]:
    """A model whose answers differ a little from one time to the next."""
    noise = np.random.default_rng(11)

    def answer(texts: Sequence[str]) -> Vectors:
        vectors = brain(texts)
        shaken = vectors + relative * noise.normal(size=vectors.shape) / vectors.shape[1] ** 0.5
        shaken /= np.linalg.norm(shaken, axis=1, keepdims=True)
        return np.asarray(shaken, np.float32)

    return answer


def test_measuring_again_within_noise_keeps_the_file(
    witnessed: Workspace, server: EmbeddingServer, itself: Brain
) -> None:
    folder = witnessed.settings.pins
    before = {path: path.read_bytes() for path in folder.iterdir()}
    server.brain = trembling(itself, 1e-4)

    result = command.pin(witnessed.to_pin, "served")

    assert not result["changed"]
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_new_witness_makes_a_new_model_and_the_last_one_measured_counts(
    witnessed: Workspace, server: EmbeddingServer, itself: Brain, impostor: Brain
) -> None:
    settings = witnessed.settings
    witnessed.upgrade()
    old = resolve.pinned(settings, "served")
    server.brain = impostor
    with pytest.raises(Drifted, match="when it was witnessed") as refused:
        command.pin(settings, "served")
    assert "--new-witness" in str(refused.value.next_step)

    command.pin(settings, "served", new_witness=True)

    new = resolve.pinned(settings, "served")
    assert new.fingerprint != old.fingerprint and new.is_declared_like(old)
    assert len(read_pins(settings.pins, "served")) == 2
    assert not command.pin(settings, "served")["changed"]
    assert command.drift(settings)["holds"]
    witnessed.revision("served", "what it has become")
    (entry,) = witnessed.upgrade()
    assert entry["live"] and entry["embedded"] == 40
    assert_same(stored(witnessed), made_by(impostor))

    server.brain = itself
    assert not command.drift(settings)["holds"], "the last one measured is what is expected"


def test_a_name_with_a_date_in_the_reply_is_told_as_the_better_one_to_pin(
    declared: Workspace, server: EmbeddingServer
) -> None:
    server.replies_as = "acme-embed-2405"

    answer = run(declared.root, "pin", "served")

    assert answer.code == 0, answer.err
    assert 'model = "acme-embed-2405" would pin that version' in answer.out
    server.replies_as = "acme-embed-v2"
    assert "would pin" not in run(declared.root, "pin", "served").out


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("dimensions = 256", "dimensions = 128", "256 dimensions"),
        ("dimensions = 256\n", "", "256 dimensions when the server was asked"),
        ('pin = "witness"\n', "", "a name without a version"),
        ('"acme-embed"', '"acme-embed:latest"', "the tag latest"),
    ],
)
def test_pinning_says_what_is_wrong_and_what_the_server_answered(
    declared: Workspace, server: EmbeddingServer, old: str, new: str, says: str
) -> None:
    declared.edit_config(old, new)

    answer = run(declared.root, "pin", "served")

    assert answer.code == 78
    assert says in answer.err
    assert len(server.requests) <= 2, "it does not take hundreds of calls to see"
    assert not list((declared.root / "migrations" / "models").glob("served*"))


def test_a_server_that_answers_nonsense_is_not_pinned(
    declared: Workspace, server: EmbeddingServer, itself: Brain
) -> None:
    def nonsense(texts: Sequence[str]) -> Vectors:
        return np.full((len(texts), 256), np.nan, np.float32)

    for brain, found in ((nonsense, "not finite"), (lambda texts: 2 * itself(texts), "normalised")):
        server.brain = brain
        with pytest.raises(ConfigError) as refused:
            command.pin(declared.to_pin, "served")
        assert found in str(refused.value.found)
    assert not list(declared.to_pin.pins.glob("served*"))


def test_a_server_that_is_never_the_same_has_no_witness(
    declared: Workspace, server: EmbeddingServer, itself: Brain
) -> None:
    server.brain = trembling(itself, 0.3)
    with pytest.raises(NotProven, match="too differently"):
        command.pin(declared.to_pin, "served")
    assert not list(declared.to_pin.pins.glob("served*"))


@pytest.mark.parametrize(("stated", "right"), [(256, True), (128, False), (512, False)])
def test_where_a_server_cuts_is_put_to_the_test(
    declared: Workspace, server: EmbeddingServer, impostor: Brain, stated: int, right: bool
) -> None:
    server.brain = impostor  # which cuts at 256 tokens
    declared.edit_config(
        "normalize = true\nparam", f"normalize = true\nmax_tokens = {stated}\nparam"
    )
    if right:
        assert command.pin(declared.to_pin, "served")["effective"]["max_tokens"] == 256
        return
    with pytest.raises(ConfigError, match="max_tokens") as refused:
        command.pin(declared.to_pin, "served")
    assert refused.value.found == f"max_tokens other than {stated} when it was asked"


def test_a_witness_in_a_pin_file_is_the_one_in_the_identity(
    witnessed: Workspace, server: EmbeddingServer, impostor: Brain
) -> None:
    folder = witnessed.settings.pins
    (pin,) = read_pins(folder, "served")
    server.brain = impostor
    command.pin(witnessed.to_pin, "served", new_witness=True)
    _, other = read_pins(folder, "served")

    path, _ = write_pin(folder, replace(pin, witness=other.witness))

    with pytest.raises(ConfigError, match=path.name) as refused:
        resolve.pinned(witnessed.settings, "served")
    assert "no record of the witness" in str(refused.value.found)
    path.unlink()
    write_pin(folder, replace(pin, witness=Witness()))
    with pytest.raises(ConfigError, match=path.name):
        resolve.pinned(witnessed.settings, "served")


# -- a server that is not itself any more ------------------------------------------------------


def test_a_silent_swap_is_a_drift(
    witnessed: Workspace, server: EmbeddingServer, impostor: Brain
) -> None:
    assert run(witnessed.root, "drift").code == 0
    server.brain = impostor

    answer = run(witnessed.root, "drift", "served", "--json")

    assert answer.code == 3
    (entry,) = json.loads(answer.out)["models"]
    assert (entry["verdict"], entry["assurance"]) == ("DRIFT", "witnessed")
    assert (entry["runtime"], entry["processor"]) == ("openai-compatible server", "")
    assert entry["compared_with"] == "openai-compatible server"
    assert entry["moved"] == 2 * len(CANARIES) and entry["median"] > 0.5
    assert entry["neighbourhood"]["finds_itself"] < 0.2


@pytest.mark.parametrize("spoiled", ["dimension", "norm", "zeros"])
def test_a_swap_that_shows_in_the_form_of_an_answer_is_a_drift_too(
    witnessed: Workspace, server: EmbeddingServer, itself: Brain, spoiled: str
) -> None:
    def shorter(texts: Sequence[str]) -> Vectors:
        return np.ascontiguousarray(itself(texts)[:, :128])

    server.brain = {
        "dimension": shorter,
        "norm": lambda texts: 2 * itself(texts),
        "zeros": lambda texts: 0 * itself(texts),
    }[spoiled]
    answer = run(witnessed.root, "drift")
    assert answer.code == 3 and answer.out.startswith("DRIFT"), answer.out + answer.err


def test_a_server_that_says_that_it_has_another_model_is_not_asked_for_canaries(
    witnessed: Workspace, server: EmbeddingServer
) -> None:
    server.replies_as = "other-embed"
    answer = run(witnessed.root, "drift")
    assert answer.code == 3 and "answered as another model" in answer.err
    assert len(server.requests) == 1
    with pytest.raises(NameMismatch):
        witnessed.upgrade()


def test_a_run_does_not_start_with_a_model_that_is_not_itself(
    witnessed: Workspace, server: EmbeddingServer, impostor: Brain
) -> None:
    server.brain = impostor

    with pytest.raises(Drifted, match="when it was witnessed") as refused:
        witnessed.upgrade()

    assert refused.value.exit_code == 3
    assert documents_sent(server) == []
    status = witnessed.status()
    assert (status["live"], status["shadow"]) == (None, None)
    assert not list((witnessed.root / "indexes").rglob("*.f32"))


class Listening(Silent):
    """Hears the notes of a run; ``on_discard`` is called when a window is discarded."""

    def __init__(self, on_discard: Callable[[], None] = lambda: None) -> None:
        self.notes: list[str] = []
        self._on_discard = on_discard

    @property
    def discards(self) -> int:
        return sum("discarded" in note for note in self.notes)

    def note(self, text: str) -> None:
        self.notes.append(text)
        if "discarded" in text:
            self._on_discard()


def swap_after(server: EmbeddingServer, brain: Brain, documents: int) -> None:
    """Let the server change its model once it was sent so many documents."""

    def swap(_request: dict[str, Any]) -> None:
        if len(documents_sent(server)) > documents:
            server.brain, server.before = brain, lambda _request: None

    server.before = swap


def test_a_swap_in_the_middle_is_found_and_only_its_window_is_done_again(
    witnessed: Workspace, server: EmbeddingServer, itself: Brain, impostor: Brain
) -> None:
    def be_itself() -> None:
        server.brain = itself

    swap_after(server, impostor, documents=16)
    reporter = Listening(be_itself)

    (entry,) = witnessed.upgrade(reporter=reporter)

    assert entry["live"] and reporter.discards == 1
    sent = documents_sent(server)
    assert len(sent) == 40 + 8 + 40, "all, the third batch again, and the sample of verification"
    assert_same(stored(witnessed), made_by(itself))
    assert command.verify(witnessed.settings)["holds"]


def test_a_swap_that_stays_ends_the_run_and_the_index_is_whole_after_the_server_is_itself_again(
    witnessed: Workspace, server: EmbeddingServer, itself: Brain, impostor: Brain
) -> None:
    swap_after(server, impostor, documents=16)
    reporter = Listening()
    with pytest.raises(Drifted) as refused:
        witnessed.upgrade(reporter=reporter)
    assert refused.value.exit_code == 3 and reporter.discards == 1
    shadow = witnessed.status()["shadow"]
    assert (shadow["state"], shadow["done"]) == ("failed", 16), "two windows hold"

    with pytest.raises(Drifted):  # and again as long as it is not itself
        witnessed.upgrade()

    server.brain = itself
    server.requests.clear()
    (entry,) = witnessed.upgrade()
    assert entry["live"]
    assert len(documents_sent(server)) == 24 + 40, "what was missing, and the sample"
    assert_same(stored(witnessed), made_by(itself))


def test_an_application_does_not_search_with_another_model_of_the_same_dimension(
    witnessed: Workspace, server: EmbeddingServer
) -> None:
    witnessed.upgrade()
    with Collection.open("articles", witnessed.settings) as articles:
        server.replies_as = "other-embed"
        with pytest.raises(NameMismatch):
            articles.search("a sloop in the wind")


def test_a_server_that_fails_in_the_middle_is_waited_for_and_nothing_is_paid_twice(
    witnessed: Workspace, server: EmbeddingServer, itself: Brain
) -> None:
    def fail(_request: dict[str, Any]) -> None:
        if len(documents_sent(server)) > 16:
            server.status = 503

    server.before = fail
    with pytest.raises(Temporary) as later:
        witnessed.upgrade()
    assert later.value.exit_code == 75 and "503" in str(later.value.found)

    server.before, server.status = lambda _request: None, 200
    server.requests.clear()
    (entry,) = witnessed.upgrade()
    assert entry["live"]
    assert len(documents_sent(server)) == 24 + 40
    assert_same(stored(witnessed), made_by(itself))


def test_a_text_that_a_server_refuses_is_set_apart_and_not_told(
    witnessed: Workspace, server: EmbeddingServer
) -> None:
    """Too long for it, say: status 413 for every call with that text."""

    def refuse(request: dict[str, Any]) -> None:
        server.status = 413 if any("number 13." in text for text in request["input"]) else 200

    server.before = refuse
    with pytest.raises(DeadLetters, match="1 document of") as refused:
        witnessed.upgrade()

    assert "the server refuses it (413)" in str(refused.value.found)
    assert "remark number" not in str(refused.value)
    assert (witnessed.status()["shadow"]["done"], witnessed.live()) == (39, None)
    server.before, server.status = lambda _request: None, 200
    (entry,) = witnessed.upgrade(retry_failed=True)
    assert entry["live"] and (entry["done"], entry["failed"]) == (40, 0)


def test_no_text_and_no_key_is_in_anything_that_is_kept(
    witnessed: Workspace, server: EmbeddingServer
) -> None:
    server.before = lambda request: setattr(server, "status", 200 if is_canary(request) else 400)
    with pytest.raises(ConfigError):
        witnessed.upgrade()

    kept = {
        name: content
        for name, content in witnessed.snapshot().items()
        if name not in ("corpus.jsonl", "embedmigrate.toml")
    }
    assert any("catalog" in name for name in kept)
    for name, content in kept.items():
        assert b"swordfish" not in content and b"yeast ferments" not in content, name
