"""Provider ``openai``: what a model behind a server is, and what of its answers is believed."""

from __future__ import annotations

import base64
import logging
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from embedmigrate.config import Settings, load_settings
from embedmigrate.embedders.openai import OpenAIEmbedder
from embedmigrate.embedders.openai_config import OpenAIConfig
from embedmigrate.errors import (
    BadAnswer,
    ConfigError,
    DigestMismatch,
    EmbedMigrateError,
    NameMismatch,
    NotFinite,
    Temporary,
    TextRefused,
    UnpinnedReference,
    WrongCount,
    WrongDimension,
    WrongNorm,
    ZeroVector,
)
from embedmigrate.models import EmbeddingModel
from embedmigrate.models.embedding_model import UNMEASURED
from embedmigrate.models.references import ALLOW_UNPINNED
from tests.embedders.handmade_models import TEXTS
from tests.embedding_server import Answer, Brain, EmbeddingServer, serving, wordllama

ROOT = Path()
DIGEST = "sha256:" + "ab" * 32
KEY = "sk-swordfish-4711"
TEXT = "the aubergine smuggler of Valparaiso"


@pytest.fixture(scope="module")
def brain() -> Brain:
    return wordllama()


@pytest.fixture
def server(brain: Brain) -> Iterator[EmbeddingServer]:
    with serving(EmbeddingServer(brain)) as it:
        yield it


def config(server: EmbeddingServer | None = None, **keys: Any) -> OpenAIConfig:
    """A witnessed model of 256 dimensions, unless ``keys`` say otherwise."""
    url = "http://127.0.0.1:9/v1" if server is None else server.url
    stated = {
        "provider": "openai",
        "vendor": "acme",
        "base_url": url,
        "model": "acme-embed",
        "pin": "witness",
        "dimensions": 256,
        **keys,
    }
    return OpenAIConfig.model_validate({k: v for k, v in stated.items() if v is not None})


def identity(**keys: Any) -> EmbeddingModel:
    return OpenAIEmbedder.identify("x", config(**keys), ROOT)


def opened(server: EmbeddingServer, **keys: Any) -> closing[OpenAIEmbedder]:
    declared = config(server, **keys)
    model = OpenAIEmbedder.identify("x", declared, ROOT)
    return closing(OpenAIEmbedder.load(declared, model, ROOT))


def refusal(
    server: EmbeddingServer, kind: type[EmbedMigrateError], *texts: str, **keys: Any
) -> EmbedMigrateError:
    """The error of asking for ``texts``. Nothing of it holds a text or the key."""
    with opened(server, api_key=KEY, **keys) as embedder, pytest.raises(kind) as caught:
        embedder.embed_documents(texts or [TEXT, "another text"])
    error = caught.value
    assert type(error) is kind
    whole = "".join(traceback.format_exception(error)) + repr(error.__context__) + str(error)
    assert "swordfish" not in whole and "aubergine" not in whole
    return error


# -- what the configuration may say -----------------------------------------------------------

MODEL = """
[models.x]
provider = "openai"
dimensions = 256
"""


def settings_of(folder: Path, lines: str, *, allow_unpinned: bool = False) -> Settings:
    path = folder / "embedmigrate.toml"
    path.write_text(MODEL + lines, "utf-8")
    return load_settings(path, allow_unpinned=allow_unpinned)


UNPINNED = {
    'model = ""': "an empty name",
    'model = "latest"': "'latest' is the tag latest",
    'model = "nomic-embed-text:latest"': "'nomic-embed-text:latest' is the tag latest",
    'model = "nomic-embed-text:v1.5"': "a tag without a digest",
    'model = "nomic-embed-*"': "a wildcard",
    'model = "voyage-3,voyage-4"': "a range of versions",
    'model = "bge-m3:main"': "the branch main",
    'model = "bge-m3@refs/heads/x"': "a git reference",
    'model = "bge-m3@1f0c3d9"': "an abbreviated commit hash, 7 digits of 40",
    'model = "bge-m3@v2"': "a version without a digest",
    'model = "mistral-embed"\npin = "witness"': "expected 'mistral-embed-2312', which stays",
    'model = "text-embedding-3-small"': "a name without a version",
    'model = "bge-m3"\ndigest = "sha256:0a1b2c"': "not a whole digest",
}


@pytest.mark.parametrize("lines", UNPINNED)
def test_a_name_that_can_be_moved_is_refused_in_words_of_its_own(
    tmp_path: Path, lines: str
) -> None:
    with pytest.raises(UnpinnedReference) as caught:
        settings_of(tmp_path, lines)

    error = caught.value
    assert error.exit_code == 78
    assert error.message.startswith("embedmigrate.toml, line "), error.message
    assert UNPINNED[lines] in error.message
    assert str(error.next_step).endswith("embedmigrate pin x")


def test_no_two_forms_are_refused_alike() -> None:
    assert len(set(UNPINNED.values())) == len(UNPINNED)


@pytest.mark.parametrize("lines", UNPINNED)
def test_pinning_reads_it_and_says_the_same(tmp_path: Path, lines: str) -> None:
    settings = settings_of(tmp_path, lines, allow_unpinned=True)

    with pytest.raises(UnpinnedReference) as caught:
        OpenAIEmbedder.identify("x", settings.model("x"), ROOT)

    assert UNPINNED[lines] in caught.value.message
    assert caught.value.next_step == "edit [models.x], then embedmigrate pin x"


@pytest.mark.parametrize(
    ("lines", "assurance"),
    [
        ('model = "mistral-embed-2312"', "version"),
        ('model = "gemini-embedding-001"', "version"),
        (f'model = "nomic-embed-text:v1.5@{DIGEST}"', "version"),
        (f'model = "nomic-embed-text:v1.5"\ndigest = "{DIGEST}"', "version"),
        (f'model = "intfloat/multilingual-e5-small"\ndigest = "{DIGEST}"', "version"),
        ('model = "text-embedding-3-large"\npin = "witness"', "witness"),
        ('model = "text-embedding-ada-002"\npin = "witness"', "witness"),
        ('model = "voyage-3.5"\npin = "witness"', "witness"),
        ('model = "embed-v4.0"\npin = "witness"', "witness"),
        ('model = "bge-m3"\npin = "witness"', "witness"),
        ('model = "gemini-embedding-001"\npin = "witness"', "witness"),
    ],
)
def test_what_stays_is_pinned_and_the_rest_is_witnessed_when_it_says_so(
    tmp_path: Path, lines: str, assurance: str
) -> None:
    settings = settings_of(tmp_path, lines)

    model = OpenAIEmbedder.identify("x", settings.model("x"), ROOT)

    assert model.assurance == assurance
    assert model.pinned_or_witnessed == ("witnessed" if assurance == "witness" else "pinned")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"base_url": "ftp://host/v1"}, "expected http"),
        ({"base_url": "host/v1"}, "expected http"),
        ({"base_url": "file:///etc/passwd"}, "expected http"),
        ({"base_url": "https://me:secret@host/v1"}, "a key goes into api_key"),
        ({"base_url": "https://host/v1?key=secret"}, "a key goes into api_key"),
        ({"base_url": "https://host:99999/v1"}, "out of range"),
        ({"name": "nickname"}, "leave it out"),
        ({"vendor": ""}, "vendor"),
        ({"pin": "hash"}, "witness"),
        ({"parameters": {"input": "x"}}, "input is not a parameter to set here"),
        ({"parameters": {"model": "x"}}, "model is not a parameter to set here"),
        ({"parameters": {"nested": {"a": 1}}}, "parameters"),
        ({"parameters": {"temperature": float("nan")}}, "temperature is not a finite number"),
        ({"parameters": {"dimensions": 128}}, "asks for 128 dimensions where dimensions is 256"),
        ({"dimensions": None}, "embedmigrate pin asks the server"),
        ({"batch_texts": 0}, "batch_texts"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"api_key": "sk-secret\n"}, "white space"),
    ],
)
def test_a_declaration_that_cannot_be_meant_is_refused(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says) as caught:
        config(**keys)
    assert "secret" not in str(caught.value)


# -- the key ----------------------------------------------------------------------------------


def test_the_key_comes_from_the_environment_and_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACME_KEY", KEY)
    lines = 'model = "bge-m3"\npin = "witness"\napi_key = "${ACME_KEY}"\n'

    settings = settings_of(tmp_path, lines)

    declared = settings.model("x")
    assert isinstance(declared, OpenAIConfig)
    assert declared.api_key is not None and declared.api_key.get_secret_value() == KEY
    assert KEY not in f"{settings!r} {declared} {declared.model_dump()}"
    assert KEY not in declared.model_dump_json()
    with pytest.raises(ConfigError) as caught:
        settings_of(tmp_path, lines + "dimension = 3\n")
    assert KEY not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(ValidationError) as direct:
        config(api_key=KEY, dimensions="many")
    assert KEY not in str(direct.value)


def test_the_key_is_sent_and_no_other_one_that_the_environment_has(
    server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")

    for keys in ({"api_key": KEY}, {}, {"api_key": ""}):
        with opened(server, **keys) as embedder:
            embedder.embed_queries([TEXT])

    assert server.keys == [f"Bearer {KEY}", "Bearer none", "Bearer none"]


def test_neither_text_nor_key_reaches_a_log(
    server: EmbeddingServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with opened(server, api_key=KEY) as embedder:
        embedder.embed_documents([TEXT])
        server.status = 500
        with pytest.raises(Temporary):
            embedder.embed_documents([TEXT])

    assert caplog.records, "the client logs what it does"
    assert "aubergine" not in caplog.text and "swordfish" not in caplog.text


# -- identity ---------------------------------------------------------------------------------


def test_what_decides_a_vector_is_hashed_and_where_it_is_asked_is_not() -> None:
    plain = identity()

    assert (plain.name, plain.vendor, plain.dimensions) == ("acme-embed", "acme", 256)
    assert dict(plain.artifacts) == {} and plain.revision == ""
    for elsewhere in (
        {"base_url": "https://mirror.example/v1"},
        {"api_key": KEY},
        {"timeout_seconds": 5},
        {"batch_texts": 1},
    ):
        assert identity(**elsewhere) == plain
    changed = [
        identity(vendor="other"),
        identity(model="acme-embed-2"),
        identity(pin=None, digest=DIGEST),
        identity(dimensions=255),
        identity(normalize=True),
        identity(max_tokens=512),
        identity(document_prompt="passage: "),
        identity(parameters={"task": "retrieval"}),
        identity(parameters={"task": "clustering"}),
        identity(parameters={"task": 1}),
        identity(parameters={"task": True}),
    ]
    assert len({model.fingerprint for model in [plain, *changed]}) == 1 + len(changed)
    other_queries = identity(query_prompt="query: ")
    assert other_queries.fingerprint == plain.fingerprint
    assert other_queries.query_side != plain.query_side


def test_the_witness_is_not_known_before_it_is_measured_and_not_compared_until_then() -> None:
    declared = identity()
    measured = EmbeddingModel.model_validate(
        declared.model_dump(exclude={"fingerprint"}) | {"witness": DIGEST}
    )

    assert declared.witness == UNMEASURED
    assert measured.fingerprint != declared.fingerprint
    assert measured.is_declared_like(declared) and declared.is_declared_like(measured)
    assert not measured.is_declared_like(identity(parameters={"task": "retrieval"}))


def test_the_version_is_the_dated_name_or_the_digest_and_the_same_wherever_it_is_stated() -> None:
    dated = identity(model="acme-embed-2405", pin=None)
    assert (dated.name, dated.revision) == ("acme-embed-2405", "acme-embed-2405")
    apart = identity(model="acme-embed:v1", digest=DIGEST, pin=None)
    inside = identity(model=f"acme-embed:v1@{DIGEST}", pin=None)
    assert apart == inside
    assert (apart.name, apart.revision) == ("acme-embed:v1", DIGEST)


def test_identifying_asks_nobody(server: EmbeddingServer) -> None:
    OpenAIEmbedder.identify("x", config(server), ROOT)
    with opened(server):
        pass
    assert server.requests == []


def test_dimensions_that_are_not_stated_are_asked_for_and_told(server: EmbeddingServer) -> None:
    stated = config(server, api_key=KEY).model_dump() | {"dimensions": None}
    declared = OpenAIConfig.model_validate(stated, context={ALLOW_UNPINNED: True})

    with pytest.raises(ConfigError) as caught:
        OpenAIEmbedder.identify("x", declared, ROOT)

    assert caught.value.found == "256 dimensions when the server was asked"
    assert caught.value.expected == "dimensions = 256"
    assert len(server.texts) == 1


def test_importing_the_provider_does_not_import_the_client() -> None:
    code = "import embedmigrate.embedders.openai, sys; sys.exit('openai' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- loading ----------------------------------------------------------------------------------


def test_a_pinned_model_is_asked_for_by_its_own_name_whatever_is_declared_by_now(
    server: EmbeddingServer,
) -> None:
    pinned = identity(model="acme-embed-2405", pin=None)
    now = config(server, model="acme-embed-2505", pin=None)
    with closing(OpenAIEmbedder.load(now, pinned, ROOT)) as embedder:
        embedder.embed_documents([TEXT])
    assert [request["model"] for request in server.requests] == ["acme-embed-2405"]


def test_a_name_with_a_digest_is_asked_for_as_it_stands(server: EmbeddingServer) -> None:
    whole = f"acme-embed:v1@{DIGEST}"
    with opened(server, model=whole, pin=None) as embedder:
        embedder.embed_documents([TEXT])
        server.replies_as = "acme-embed:v1"
        with pytest.raises(NameMismatch):  # not what it called itself before
            embedder.embed_documents([TEXT])
    with opened(server, model=whole, pin=None) as embedder:
        embedder.embed_documents([TEXT])
    assert {request["model"] for request in server.requests} == {whole}


def test_another_vendor_another_digest_and_a_model_of_files_are_not_loaded() -> None:
    pinned = identity(digest=DIGEST, pin=None)
    with pytest.raises(NameMismatch, match="another vendor"):
        OpenAIEmbedder.load(config(vendor="other"), pinned, ROOT)
    other = "sha256:" + "cd" * 32
    with pytest.raises(DigestMismatch) as caught:
        OpenAIEmbedder.load(config(digest=other, pin=None), pinned, ROOT)
    assert (caught.value.found, caught.value.expected) == (other, DIGEST)
    with pytest.raises(DigestMismatch):
        OpenAIEmbedder.load(config(), pinned, ROOT)
    local = EmbeddingModel(name="local", artifacts={"weights": DIGEST}, dimensions=256)
    with pytest.raises(DigestMismatch, match="pinned by its files"):
        OpenAIEmbedder.load(config(), local, ROOT)


# -- vectors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ignores_base64", [False, True])
def test_vectors_are_those_of_the_model_in_the_order_of_the_texts(
    server: EmbeddingServer, brain: Brain, ignores_base64: bool
) -> None:
    server.ignores_base64 = ignores_base64
    texts = TEXTS[:7] + TEXTS[8:]
    with opened(server, normalize=True) as embedder:
        found = embedder.embed_documents(texts)

    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, brain(texts))
    assert server.requests[0]["encoding_format"] == "base64"


def test_an_answer_in_another_order_is_put_in_order(server: EmbeddingServer, brain: Brain) -> None:
    def backwards(answer: Answer) -> Answer:
        return {**answer, "data": answer["data"][::-1]}

    server.spoil = backwards
    with opened(server) as embedder:
        found = embedder.embed_documents(TEXTS[:5])
    np.testing.assert_array_equal(found, brain(TEXTS[:5]))


def test_each_side_has_its_prompt_and_a_request_says_what_is_configured(
    server: EmbeddingServer,
) -> None:
    keys = {"document_prompt": "passage: ", "query_prompt": "query: "}
    with opened(server, **keys, parameters={"task": "retrieval", "truncate": True}) as embedder:
        embedder.embed_documents(["one"])
        embedder.embed_queries(["two"])

    assert server.texts == ["passage: one", "query: two"]
    for request in server.requests:
        assert (request["model"], request["task"]) == ("acme-embed", "retrieval")
        assert request["truncate"] is True
        assert "dimensions" not in request, "asked for by parameters alone"


def test_a_call_is_split_into_requests_of_so_many_texts(
    server: EmbeddingServer, brain: Brain
) -> None:
    with opened(server, batch_texts=2) as embedder:
        found = embedder.embed_documents(TEXTS[:5])
        assert embedder.embed_documents([]).shape == (0, 256)
    assert [len(request["input"]) for request in server.requests] == [2, 2, 1]
    np.testing.assert_array_equal(found, brain(TEXTS[:5]))


def test_a_lone_surrogate_is_sent_as_the_local_models_read_it(server: EmbeddingServer) -> None:
    with opened(server) as embedder:
        embedder.embed_documents(["a \ud83d b"])
    assert server.texts == ["a \ufffd b"]


def test_a_single_text_by_mistake_is_refused(server: EmbeddingServer) -> None:
    with opened(server) as embedder, pytest.raises(TypeError):
        embedder.embed_documents("one text")


def test_eight_threads_get_the_answers_that_one_gets(server: EmbeddingServer, brain: Brain) -> None:
    texts = [f"{TEXT}, chapter {number}" for number in range(40)]
    with opened(server, batch_texts=5) as embedder, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda text: embedder.embed_documents([text])[0], texts))
    np.testing.assert_array_equal(np.stack(answers), brain(texts))


# -- answers that are not believed ------------------------------------------------------------


def first_row(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Answer], Answer]:
    def spoil(answer: Answer) -> Answer:
        first, *rest = answer["data"]
        return {**answer, "data": [first | change(first), *rest]}

    return spoil


def stretched(row: dict[str, Any]) -> dict[str, Any]:
    return {"embedding": [2 * value for value in row["embedding"]]}


def with_nan(row: dict[str, Any]) -> dict[str, Any]:
    return {"embedding": [float("nan"), *row["embedding"][1:]]}


def with_nan_in_base64(row: dict[str, Any]) -> dict[str, Any]:
    vector = np.array(with_nan(row)["embedding"], "<f4")
    return {"embedding": base64.b64encode(vector.tobytes()).decode()}


KINDS_OF_ANSWER = {
    "wrong shape": WrongCount,
    "wrong indices": WrongCount,
    "different lengths": WrongDimension,
    "not finite": NotFinite,
    "zero vectors": ZeroVector,
    "not normalised": WrongNorm,
}


@pytest.mark.parametrize(
    ("spoil", "message", "found"),
    [
        (lambda it: {**it, "data": it["data"][:1]}, "wrong shape", "(1, 256)"),
        (lambda it: {**it, "data": []}, "wrong shape", "(0, 0)"),
        (
            lambda it: {**it, "data": [*it["data"], {**it["data"][0], "index": 2}]},
            "wrong shape",
            "(3, 256)",
        ),
        (first_row(lambda _: {"index": 1}), "wrong indices", "1 different ones on 2 vectors"),
        (first_row(lambda _: {"index": -1}), "wrong indices", "2 different ones on 2 vectors"),
        (first_row(lambda row: {"embedding": row["embedding"][1:]}), "different lengths", "255"),
        (first_row(with_nan), "not finite", "1 of 2 vectors"),
        (first_row(with_nan_in_base64), "not finite", "1 of 2 vectors"),
        (first_row(lambda _: {"embedding": [0.0] * 256}), "zero vectors", "1 of 2 vectors"),
        (first_row(stretched), "not normalised", "norms from 1.0000 to 2.0000"),
        (first_row(lambda _: {"embedding": TEXT}), "not a vector", "36 characters"),
        (first_row(lambda _: {"embedding": "AAAA"}), "not a vector", "4 characters"),
        (lambda it: {**it, "data": TEXT}, "in another form", "1 faults"),
        (lambda _: f"<html>{TEXT}</html>", "in another form", "1 faults"),
    ],
)
def test_an_answer_that_is_not_one_sane_vector_a_text_is_refused(
    server: EmbeddingServer, spoil: Callable[[Answer], Answer], message: str, found: str
) -> None:
    server.ignores_base64, server.spoil = True, spoil
    error = refusal(server, KINDS_OF_ANSWER.get(message, BadAnswer), normalize=True)
    assert message in error.message
    assert found in str(error.found)


def test_another_dimension_is_refused_with_what_it_is_and_how_to_ask_for_a_shorter_one(
    server: EmbeddingServer,
) -> None:
    error = refusal(server, WrongDimension, dimensions=128)
    assert (error.found, error.expected) == ("256 dimensions", "128")
    assert "parameters = { dimensions = 128 }" in str(error.next_step)


@pytest.mark.parametrize("answered", ["acme-embed", "acme-embed-v2", "acme-embed-2405", ""])
def test_a_reply_may_name_a_form_of_what_was_asked_or_nothing(
    server: EmbeddingServer, answered: str
) -> None:
    server.replies_as = answered
    with opened(server) as embedder:
        embedder.embed_documents([TEXT])
        assert embedder.answers_as == answered


def test_a_reply_that_names_another_model_is_refused(server: EmbeddingServer) -> None:
    server.replies_as = "other-embed"
    error = refusal(server, NameMismatch)
    assert error.exit_code == 3
    assert (error.found, error.expected) == ("other-embed", "acme-embed")
    assert error.next_step == "if that is the model you mean, model = 'other-embed'"


def test_a_reply_that_names_a_dated_model_says_that_this_name_would_pin(
    server: EmbeddingServer,
) -> None:
    server.replies_as = "other-embed-2405"
    error = refusal(server, NameMismatch)
    assert "a dated name, which pins it: model = 'other-embed-2405'" in str(error.next_step)


def test_a_reply_that_names_a_text_is_not_quoted(server: EmbeddingServer) -> None:
    server.replies_as = TEXT
    assert refusal(server, NameMismatch).found == "something that is not the name of a model"


def test_an_alias_that_moves_while_it_is_asked_is_noticed(server: EmbeddingServer) -> None:
    server.replies_as = "acme-embed-2405"
    with opened(server) as embedder:
        embedder.embed_documents([TEXT])
        server.replies_as = "acme-embed-2505"
        with pytest.raises(NameMismatch) as caught:
            embedder.embed_documents([TEXT])
    assert (caught.value.found, caught.value.expected) == ("acme-embed-2505", "acme-embed-2405")


# -- failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "exit_code"),
    [
        (429, Temporary, 75),
        (408, Temporary, 75),
        (500, Temporary, 75),
        (503, Temporary, 75),
        (401, ConfigError, 78),
        (403, ConfigError, 78),
        (400, TextRefused, 78),
        (404, ConfigError, 78),
        (413, TextRefused, 78),
        (422, TextRefused, 78),
    ],
)
def test_a_failure_is_told_by_its_status_and_nothing_that_the_server_said(
    server: EmbeddingServer, status: int, kind: type[EmbedMigrateError], exit_code: int
) -> None:
    server.status = status
    error = refusal(server, kind)
    assert error.exit_code == exit_code
    assert str(error.found).split()[0] == str(status)
    assert server.url in error.message
    assert len(server.requests) == 1, "asked once"


def test_a_code_that_helps_is_passed_on_and_no_other(server: EmbeddingServer) -> None:
    server.status, server.code = 429, "insufficient_quota"
    assert "insufficient_quota" in str(refusal(server, Temporary).found)
    server.code = TEXT
    refusal(server, Temporary)


def test_a_wrong_key_is_a_matter_of_configuration(server: EmbeddingServer) -> None:
    server.key = "another"
    error = refusal(server, ConfigError)
    assert "does not accept the key" in error.message and error.next_step == "correct api_key"


def test_a_wrong_address_is_a_matter_of_configuration(server: EmbeddingServer) -> None:
    error = refusal(server, ConfigError, base_url=server.url.removesuffix("/v1"))
    assert "correct base_url" in str(error.next_step)


def test_a_server_that_is_slow_or_gone_is_asked_again_later(server: EmbeddingServer) -> None:
    server.delay = 5
    error = refusal(server, Temporary, timeout_seconds=0.2)
    assert error.found == "nothing after 0.2 s"
    gone = refusal(server, Temporary, base_url="http://127.0.0.1:9/v1")
    assert "cannot be reached" in gone.message and gone.exit_code == 75
