"""Alembic's verbs with Alembic's grammar, on a project with two collections.

`articles` and `papers` are live with `fake-a`; a revision of `articles` to `fake-b` is pending.
"""

from __future__ import annotations

import ast
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from embedmigrate import command
from embedmigrate.errors import Fork
from tests.command_line import Answer, run
from tests.workspace import ARTICLES, Workspace, documents

A1, A2, P1, P2 = "a1a1a1a1a1a1", "a2a2a2a2a2a2", "b1b1b1b1b1b1", "b2b2b2b2b2b2"
PAPERS = ARTICLES.replace("articles", "papers").replace("corpus.jsonl", "papers.jsonl")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = Workspace.make(
        tmp_path_factory.mktemp("verbs") / "project",
        collections=(ARTICLES + PAPERS).replace('"wordllama"', '"fake-a"'),
        pin=("fake-a", "fake-b"),
    )
    workspace.write_corpus(documents(12), "papers.jsonl")
    write_revision(workspace, A1, "articles", "fake-a", "first articles")
    write_revision(workspace, P1, "papers", "fake-a", "first papers")
    workspace.upgrade()
    write_revision(workspace, A2, "articles", "fake-b", "better articles")
    return workspace.root


def write_revision(
    workspace: Workspace, rev_id: str, collection: str, to: str, message: str = "move"
) -> Path:
    return command.revision(
        workspace.settings, message, collection=collection, to=to, rev_id=rev_id
    )


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(made, tmp_path / "project")
    return Workspace(tmp_path / "project")


def em(workspace: Workspace, *args: str, code: int = 0) -> Answer:
    """Run a command that must end with ``code``."""
    answer = run(workspace.root, *args)
    assert answer.code == code, answer.err
    return answer


def applied(workspace: Workspace) -> set[str]:
    """The version rows, read past all code of the project."""
    with closing(sqlite3.connect(workspace.root / "catalog.db")) as catalog:
        return {row[0] for row in catalog.execute("SELECT version_num FROM embedmigrate_version")}


def lives(workspace: Workspace) -> tuple[str | None, str | None]:
    return workspace.live("articles"), workspace.live("papers")


def scripts(workspace: Workspace) -> list[Path]:
    return sorted((workspace.root / "migrations" / "versions").glob("*.py"))


# -- looking at the graph ---------------------------------------------------------------------


def test_current_shows_the_applied_revisions(project: Workspace) -> None:
    assert sorted(em(project, "current").out.splitlines()) == [A1, f"{P1} (head)"]


def test_current_verbose_shows_message_and_path(project: Workspace) -> None:
    out = em(project, "current", "-v").out

    assert "first articles" in out and f"{A1}_first_articles.py" in out


def test_current_can_demand_that_every_head_is_applied(project: Workspace) -> None:
    refusal = em(project, "current", "--check-heads", code=3).err
    assert A1 in refusal and A2 in refusal and "next:     embedmigrate upgrade" in refusal

    em(project, "upgrade")

    em(project, "current", "--check-heads")


def test_nothing_is_current_before_the_first_upgrade_and_looking_makes_no_catalog(
    project: Workspace,
) -> None:
    for file in project.root.glob("catalog.db*"):
        file.unlink()

    for verb in ("current", "history", "heads", "branches", "status", "plan"):
        em(project, verb)
    em(project, "history", "-i")
    em(project, "history", "-r", "current:heads")
    em(project, "check", code=3)
    em(project, "current", "--check-heads", code=3)
    em(project, "search", "articles", "text", code=3)

    assert not list(project.root.glob("catalog.db*"))


def test_history_is_newest_first_within_a_branch(project: Workspace) -> None:
    lines = em(project, "history").out.splitlines()

    assert len(lines) == 3
    assert [line for line in lines if "articles)" in line] == [
        f"{A1} -> {A2} (articles) (head), better articles",
        f"<base> -> {A1} (articles), first articles",
    ]


@pytest.mark.parametrize(
    ("revision_range", "shown"),
    [
        (f"{A1}:{A2}", {A1, A2}),
        (f":{A1}", {A1}),
        ("a2:", {A2}),
        ("current:", {A1, A2, P1}),
        ("articles@base:articles@head", {A1, A2}),
    ],
)
def test_history_takes_a_range(project: Workspace, revision_range: str, shown: set[str]) -> None:
    out = em(project, "history", "-r", revision_range).out

    assert {revision for revision in (A1, A2, P1) if f"-> {revision}" in out} == shown


def test_history_marks_what_is_applied(project: Workspace) -> None:
    lines = em(project, "history", "-i").out.splitlines()

    marked = {line.split()[2] for line in lines if "(current)" in line}
    assert marked == {A1, P1}


def test_history_verbose_shows_parents_and_paths(project: Workspace) -> None:
    out = em(project, "history", "-v").out
    assert f"Parent: {A1}" in out and f"{A2}_better_articles.py" in out


def test_heads_shows_one_head_a_collection(project: Workspace) -> None:
    assert sorted(em(project, "heads").out.splitlines()) == [
        f"{A2} (articles) (head)",
        f"{P1} (papers) (head)",
    ]
    assert "better articles" in em(project, "heads", "--verbose").out


def test_branches_shows_where_collections_part(project: Workspace) -> None:
    assert em(project, "branches").out == ""
    for script in scripts(project):
        script.unlink()
    em(project, "revision", "-m", "root", "--rev-id", "root")
    for rev_id, collection in ((A1, "articles"), (P1, "papers")):
        em(project, "revision", "--collection", collection, "--head", "root", "--splice",
           "--rev-id", rev_id)  # fmt: skip

    out = em(project, "branches").out

    assert "root (branchpoint)" in out and A1 in out and P1 in out
    assert f"{A1} (articles) (head)" in em(project, "heads").out, "it has its label all the same"


@pytest.mark.parametrize("name", [A2, "a2", "articles@head"])
def test_show_takes_every_way_to_name_a_revision(project: Workspace, name: str) -> None:
    out = em(project, "show", name).out
    assert f"Rev: {A2} (head)" in out and "better articles" in out


def test_show_takes_several(project: Workspace) -> None:
    for name in ("heads", "current"):
        assert "Rev: " in em(project, "show", name).out
    assert em(project, "show", "heads").out.count("Rev: ") == 2


def test_a_partial_id_that_fits_two_revisions_is_ambiguous(project: Workspace) -> None:
    refusal = em(project, "show", "a", code=2).err
    assert A1 in refusal and A2 in refusal


# -- writing scripts --------------------------------------------------------------------------


def test_a_revision_script_is_short_complete_and_frozen(project: Workspace) -> None:
    path = next(path for path in scripts(project) if path.name.startswith(A2))
    text = path.read_text("utf-8")

    assert len(text.splitlines()) < 60 and max(map(len, text.splitlines())) <= 100
    assert text.count("sha256:") == 1 and "fingerprint=" in text
    assert 'source="fake-a@' in text and 'op.rollback("articles", to="fake-a@' in text
    names = {
        alias.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert names == {"EmbeddingModel", "Recipe", "op"}, "it reads no settings"


def test_a_first_revision_comes_from_nothing_and_goes_back_to_nothing(project: Workspace) -> None:
    path = next(path for path in scripts(project) if path.name.startswith(A1))
    text = path.read_text("utf-8")

    assert "source=None" in text and "to=None" in text and 'branch_labels = ("articles",)' in text


def test_a_revision_to_the_same_thing_is_refused(project: Workspace) -> None:
    before = scripts(project)

    refusal = em(project, "revision", "--collection", "papers", code=2).err

    assert "already moves to fake-a@" in refusal
    assert scripts(project) == before


def test_a_revision_goes_to_the_configured_model_unless_told_otherwise(project: Workspace) -> None:
    project.edit_config('model = "fake-a"', 'model = "fake-b"')

    path = Path(em(project, "revision", "--collection", "papers", "-m", "Move on!").out.strip())

    assert path.name.endswith("_move_on.py")
    assert 'name="fake-b"' in path.read_text("utf-8")


def test_a_revision_without_a_collection_is_an_empty_script(project: Workspace) -> None:
    out = em(project, "revision", "-m", "note", "--head", "papers@head", "--rev-id", P2).out
    path = Path(out.strip())

    text = path.read_text("utf-8")
    assert "op." not in text and text.count("pass") == 2
    assert f'down_revision = "{P1}"' in text

    assert em(project, "upgrade", "papers@head").out == f"applied {P2}: moves nothing\n"
    assert applied(project) == {A1, P2}
    assert lives(project) == ("fake-a", "fake-a")


def test_a_revision_that_could_go_on_either_branch_asks_for_one(project: Workspace) -> None:
    refusal = em(project, "revision", "-m", "note", code=2).err
    assert "Multiple heads" in refusal and "next:     name a branch" in refusal


def test_a_target_without_a_collection_is_refused(project: Workspace) -> None:
    assert "--collection" in em(project, "revision", "--to", "fake-b", code=2).err


def test_a_label_of_ones_own_comes_beside_that_of_the_collection(project: Workspace) -> None:
    for script in scripts(project):
        script.unlink()
    em(project, "revision", "--collection", "articles", "--branch-label", "spring")

    (head,) = em(project, "heads").out.splitlines()

    assert "articles" in head and "spring" in head


def test_edit_opens_the_script_in_the_editor(
    project: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho "# seen" >> "$1"\n', "utf-8")
    editor.chmod(0o755)
    monkeypatch.setenv("EDITOR", str(editor))

    em(project, "edit", "articles@head")

    (path,) = [path for path in scripts(project) if path.name.startswith(A2)]
    assert path.read_text("utf-8").endswith("# seen\n")


def test_an_editor_that_cannot_be_started_is_said_to_be_the_trouble(
    project: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITOR", "false")

    assert "EDITOR" in em(project, "edit", A2, code=2).err


def test_the_templates_can_be_listed(project: Workspace) -> None:
    names = [line.split()[0] for line in em(project, "list-templates").out.splitlines()]
    assert names == ["default", "pgvector"]


# -- beginning --------------------------------------------------------------------------------


def test_init_makes_scripts_folder_and_configuration(tmp_path: Path) -> None:
    answer = run(tmp_path, "init")

    assert answer.code == 0
    assert (tmp_path / "migrations" / "versions").is_dir()
    assert (tmp_path / "migrations" / "models").is_dir()
    assert (tmp_path / "migrations" / "env.py").is_file()
    assert (tmp_path / "migrations" / "script.py.mako").is_file()
    assert str(tmp_path / "embedmigrate.toml") in answer.out
    assert run(tmp_path, "status").code == 0


@pytest.mark.parametrize("template", ["default", "pgvector"])
def test_init_says_what_to_do_next(tmp_path: Path, template: str) -> None:
    said = run(tmp_path, "init", "--template", template).err

    assert said.startswith("To begin: ")
    assert said.rstrip() in (tmp_path / "migrations" / "README").read_text("utf-8")
    typed = [line.split()[1] for line in said.splitlines() if line.startswith("  embedmigrate ")]
    assert [typed[0], typed[-1]] == ["doctor", "upgrade"]


def test_init_is_quiet_when_it_is_asked_to_be(tmp_path: Path) -> None:
    assert run(tmp_path, "-q", "init").err == ""


def test_init_writes_the_folder_that_it_made_into_the_configuration(tmp_path: Path) -> None:
    assert run(tmp_path, "init", "db/embeddings").code == 0

    assert 'script_location = "db/embeddings"' in (tmp_path / "embedmigrate.toml").read_text()
    assert run(tmp_path, "heads").code == 0


def test_init_keeps_a_configuration_that_exists(tmp_path: Path) -> None:
    (tmp_path / "embedmigrate.toml").write_text("# mine\n", "utf-8")

    answer = run(tmp_path, "init")

    assert answer.code == 0 and "embedmigrate.toml" not in answer.out
    assert "kept the configuration: see that script_location is migrations" in answer.err
    assert (tmp_path / "embedmigrate.toml").read_text("utf-8") == "# mine\n"


def test_init_makes_no_second_configuration_beside_pyproject(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.embedmigrate]\n", "utf-8")

    assert run(tmp_path, "init").code == 0

    assert not (tmp_path / "embedmigrate.toml").exists()
    assert run(tmp_path, "heads").code == 0


@pytest.mark.parametrize("in_the_way", ["folder", "file"])
def test_init_refuses_a_place_that_is_taken(tmp_path: Path, in_the_way: str) -> None:
    place = tmp_path / "migrations"
    if in_the_way == "folder":
        place.mkdir()
        (place / "alembic.ini").write_text("", "utf-8")
    else:
        place.write_text("", "utf-8")
    before = sorted(tmp_path.rglob("*"))

    answer = run(tmp_path, "init")

    assert answer.code == 78 and "already exists" in answer.err
    assert sorted(tmp_path.rglob("*")) == before


def test_init_uses_a_folder_that_is_empty(tmp_path: Path) -> None:
    (tmp_path / "migrations").mkdir()
    assert run(tmp_path, "init").code == 0


# -- moving -----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["heads", "articles@head", "articles@+1", A2, "a2", "articles"])
def test_upgrade_takes_every_way_to_name_a_target(project: Workspace, target: str) -> None:
    em(project, "upgrade", target)

    assert applied(project) == {A2, P1}
    assert lives(project) == ("fake-b", "fake-a")


def test_upgrade_takes_several_targets(project: Workspace) -> None:
    write_revision(project, P2, "papers", "fake-b")

    em(project, "upgrade", A2, "papers@+1")

    assert applied(project) == {A2, P2}
    assert lives(project) == ("fake-b", "fake-b")


def test_upgrade_by_one_needs_a_branch_where_there_are_several(project: Workspace) -> None:
    before = project.snapshot()

    for target in ("+1", "head"):
        assert "next:     name a branch" in em(project, "upgrade", target, code=2).err

    assert project.snapshot() == before


def test_downgrade_by_one_is_refused_where_it_could_mean_either_collection(
    project: Workspace,
) -> None:
    before = project.snapshot()

    refusal = em(project, "downgrade", "-1", code=2).err

    assert "embedmigrate downgrade articles@-1" in refusal
    assert "embedmigrate downgrade papers@-1" in refusal
    assert project.snapshot() == before


def test_downgrade_of_one_collection_leaves_the_other(project: Workspace) -> None:
    em(project, "upgrade")

    em(project, "downgrade", "articles@-1")
    assert (applied(project), lives(project)) == ({A1, P1}, ("fake-a", "fake-a"))

    em(project, "downgrade", "papers@base")
    assert (applied(project), lives(project)) == ({A1}, ("fake-a", None))


def test_downgrade_by_one_is_clear_where_one_revision_is_applied(project: Workspace) -> None:
    em(project, "downgrade", "papers@base")
    em(project, "upgrade", "articles@head")

    em(project, "downgrade", "-1")

    assert (applied(project), lives(project)) == ({A1}, ("fake-a", None))


def test_downgrade_base_goes_back_to_nothing_and_says_so(project: Workspace) -> None:
    answer = em(project, "downgrade", "base")

    assert (applied(project), lives(project)) == (set(), (None, None))
    assert "articles: nothing is live" in answer.out and "papers: nothing is live" in answer.out
    em(project, "search", "articles", "text", code=75)


def test_a_dependency_is_applied_first(project: Workspace) -> None:
    em(project, "revision", "--collection", "papers", "--to", "fake-b", "--rev-id", P2,
       "--depends-on", A2)  # fmt: skip
    assert f'depends_on = "{A2}"' in scripts(project)[-1].read_text("utf-8")

    em(project, "upgrade", "papers@head")

    assert lives(project) == ("fake-b", "fake-b")


def test_what_depends_on_a_collection_that_fails_waits(project: Workspace) -> None:
    em(project, "revision", "--collection", "papers", "--to", "fake-b", "--rev-id", P2,
       "--depends-on", A2)  # fmt: skip
    (project.root / "corpus.jsonl").unlink()

    em(project, "upgrade", code=78)

    assert lives(project) == ("fake-a", "fake-a")
    assert applied(project) == {A1, P1}


def test_merge_joins_two_collections_and_both_go_on(project: Workspace) -> None:
    path = Path(em(project, "merge", "heads", "-m", "join", "--rev-id", "joined").out.strip())
    assert path.is_file()
    assert em(project, "heads").out.startswith("joined ")

    em(project, "upgrade")
    assert (applied(project), lives(project)) == ({"joined"}, ("fake-b", "fake-a"))

    write_revision(project, P2, "papers", "fake-b")
    assert em(project, "heads").out.startswith(P2)
    em(project, "upgrade")
    assert (applied(project), lives(project)) == ({P2}, ("fake-b", "fake-b"))

    em(project, "downgrade", "joined")
    assert (applied(project), lives(project)) == ({"joined"}, ("fake-b", "fake-a"))
    em(project, "downgrade", A1)
    assert (applied(project), lives(project)) == ({A1, P1}, ("fake-a", "fake-a"))


def test_a_step_that_moves_nothing_is_not_called_nothing(project: Workspace) -> None:
    em(project, "upgrade")
    em(project, "merge", "heads", "--rev-id", "joined")

    assert em(project, "upgrade").out == "applied joined: moves nothing\n"
    assert em(project, "upgrade").out == "nothing to do\n"
    assert em(project, "downgrade", A2).out == "undone joined: moves nothing\n"
    assert applied(project) == {A2, P1}


def test_a_rollback_that_would_take_another_collection_with_it_is_refused(
    project: Workspace,
) -> None:
    em(project, "merge", "heads", "--rev-id", "joined")
    write_revision(project, P2, "papers", "fake-b")
    em(project, "upgrade")

    refusal = em(project, "rollback", "articles", code=3).err

    assert "papers" in refusal and "embedmigrate downgrade" in refusal
    assert lives(project) == ("fake-b", "fake-b")


def test_two_open_re_embeddings_of_one_collection_are_a_fork(project: Workspace) -> None:
    (path,) = [path for path in scripts(project) if path.name.startswith(A2)]
    text = path.read_text("utf-8").replace(A2, "cccccccccccc")
    path.with_name("cccccccccccc_fork.py").write_text(text, "utf-8")

    with pytest.raises(Fork, match="articles"):
        command.merge(project.settings, [A2, "cccccccccccc"])
    with pytest.raises(Fork, match="articles"):
        command.check(project.settings)


# -- version rows without moving --------------------------------------------------------------


@pytest.mark.parametrize(
    "targets",
    [
        ("heads",),
        (A2,),
        ("base",),
        ("articles@base",),
        ("papers@base",),
        ("--purge", A1),
        ("--purge", "base"),
    ],
    ids=" ".join,
)
def test_a_stamp_that_would_contradict_what_is_live_is_refused(
    project: Workspace, targets: tuple[str, ...]
) -> None:
    refusal = em(project, "stamp", *targets, code=3).err

    assert "found:    live model" in refusal and "expected: live model" in refusal
    assert applied(project) == {A1, P1}


def test_a_stamp_repairs_lost_version_rows(project: Workspace) -> None:
    with closing(sqlite3.connect(project.root / "catalog.db")) as catalog, catalog:
        catalog.execute("DELETE FROM embedmigrate_version")
    assert applied(project) == set()

    em(project, "stamp", A1, P1)

    assert applied(project) == {A1, P1}
    em(project, "upgrade")
    assert lives(project) == ("fake-b", "fake-a")


def test_a_stamp_of_what_is_applied_changes_nothing(project: Workspace) -> None:
    em(project, "stamp", A1, P1)
    em(project, "stamp", "--purge", A1, P1)
    assert applied(project) == {A1, P1}


def test_an_empty_revision_may_be_stamped(project: Workspace) -> None:
    em(project, "revision", "-m", "note", "--head", "papers@head", "--rev-id", P2)

    em(project, "stamp", P2)

    assert applied(project) == {A1, P2}


def test_ensure_version_makes_the_table_once(tmp_path: Path) -> None:
    assert run(tmp_path, "init").code == 0
    assert run(tmp_path, "ensure-version").code == 0
    before = (tmp_path / "catalog.db").read_bytes()
    with closing(sqlite3.connect(tmp_path / "catalog.db")) as catalog:
        assert catalog.execute("SELECT * FROM embedmigrate_version").fetchall() == []

    assert run(tmp_path, "ensure-version").code == 0

    assert (tmp_path / "catalog.db").read_bytes() == before


# -- SQL --------------------------------------------------------------------------------------


def test_upgrade_as_sql_says_what_sql_cannot_do_and_comments_everything_out(
    project: Workspace,
) -> None:
    before = project.snapshot()

    answer = em(project, "upgrade", "--sql")

    assert "SQL cannot embed, verify or switch" in answer.err
    lines = answer.out.splitlines()
    assert "NOT A MIGRATION" in lines[0]
    assert all(line.startswith("--") for line in lines if line)
    assert "reembed articles" in answer.out and "not possible in SQL" in answer.out
    assert project.snapshot() == before


def test_upgrade_as_sql_takes_a_range(project: Workspace) -> None:
    out = em(project, "upgrade", "--sql", f"{A1}:{A2}").out
    assert "fake-b@" in out and "papers" not in out


def test_upgrade_as_sql_makes_no_catalog(project: Workspace) -> None:
    for file in project.root.glob("catalog.db*"):
        file.unlink()
    em(project, "upgrade", "--sql")
    assert not list(project.root.glob("catalog.db*"))


# -- several collections, one of which fails --------------------------------------------------


def both_pending(project: Workspace) -> None:
    write_revision(project, P2, "papers", "fake-b")


def test_a_collection_that_fails_does_not_keep_the_other_from_cutting_over(
    project: Workspace,
) -> None:
    both_pending(project)
    (project.root / "papers.jsonl").unlink()

    answer = em(project, "upgrade", code=78)

    assert "papers.jsonl cannot be read" in answer.err
    assert "articles: fake-b is live" in answer.out and "papers: failed: " in answer.out
    assert lives(project) == ("fake-b", "fake-a")
    assert applied(project) == {A2, P1}

    project.write_corpus(documents(12), "papers.jsonl")
    em(project, "upgrade")
    assert (applied(project), lives(project)) == ({A2, P2}, ("fake-b", "fake-b"))


def test_the_exit_code_is_the_gravest_that_occurred(project: Workspace) -> None:
    both_pending(project)
    project.write_corpus([*documents(12), documents(1)[0]], "papers.jsonl")
    (project.root / "elsewhere").write_text("not a folder", "utf-8")
    in_the_way = (project.root / "embedmigrate.toml").read_text("utf-8")
    (project.root / "embedmigrate.toml").write_text(
        in_the_way.replace('path = "indexes"', 'path = "elsewhere"', 1), "utf-8"
    )

    answer = em(project, "upgrade", code=3)

    assert "more than once" in answer.err, "3 comes before 75"
    assert "elsewhere" in answer.err, "the other one is said as well"
    assert lives(project) == ("fake-a", "fake-a")


def test_plan_names_every_collection_that_would_move(project: Workspace) -> None:
    both_pending(project)
    before = project.snapshot()

    out = em(project, "plan").out

    assert "articles: " in out and "papers: " in out and "12 documents" in out
    assert {
        name: content
        for name, content in project.snapshot().items()
        if not name.startswith(".embedmigrate/")
    } == {name: c for name, c in before.items() if not name.startswith(".embedmigrate/")}
