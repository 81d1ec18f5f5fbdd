"""Killed at one exact point: whatever was half done there is finished by the same command."""

from __future__ import annotations

import signal

import pytest

from embedmigrate import command
from tests.faults.project import EndState, Fault, Faulty, kill_at
from tests.workspace import documents

ENGINE = "embedmigrate.engine"
CATALOG = "embedmigrate.catalog"
FAISS = "embedmigrate.stores.faiss"

QUERY = "astronomy note 0 Telescopes observe the light of distant galaxies, planets and stars at night. This is remark number 0."
BATCH = 32


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory) -> EndState:
    import shutil
    from pathlib import Path

    root = tmp_path_factory.mktemp("undisturbed") / "project"
    project = Faulty(Path(shutil.copytree(prepared, root)))
    project.upgrade()
    return project.end_state([QUERY])


@pytest.mark.parametrize(
    "fault",
    [
        kill_at("embedmigrate.command.forward:_ensure_collections", "after"),
        kill_at(f"{CATALOG}.locks:acquire", "after"),
        kill_at(f"{CATALOG}.indexes:create", "after"),
        kill_at(f"{FAISS}.store:FaissStore.create"),
        kill_at(f"{FAISS}.store:create_database", "after"),
        kill_at(f"{FAISS}.store:FaissStore.create", "after"),
        kill_at(f"{FAISS}.ownership:Ownership.take", "after"),
        kill_at("embedmigrate.sources.spool:_fill", "after"),
        kill_at(f"{CATALOG}.runs:plan_batches"),
        kill_at(f"{CATALOG}.runs:plan_batches", "after"),
        kill_at(f"{ENGINE}.backfill:embed_documents", "after", 3),
        kill_at(f"{FAISS}.vectors:VectorFile.write", "after", 1),
        kill_at(f"{FAISS}.vectors:VectorFile.write", "after", 3),
        kill_at(f"{FAISS}.writer:FaissWriter.write", "after", 3),
        kill_at(f"{CATALOG}.runs:finish_batch", "after", 3),
        kill_at(f"{ENGINE}.prepare:note_differences", "after"),
        kill_at(f"{ENGINE}.prepare:verify", "after"),
        kill_at(f"{CATALOG}.routes:offer_candidate", "after"),
        kill_at(f"{ENGINE}.prepare:_Preparation._finish", "after"),
        kill_at(f"{CATALOG}.routes:_switch", "after"),
        kill_at(f"{CATALOG}.routes:cut_over", "after"),
        kill_at("embedmigrate.command.forward:_walk", "after"),
        kill_at(f"{FAISS}.writer:FaissWriter.set_generation", "after"),
        kill_at(f"{ENGINE}.settle:catch_up", "after"),
        kill_at("embedmigrate.command.forward:_describe"),
    ],
    ids=lambda fault: f"{fault['when']} {fault['at'].rpartition(':')[2]}",
)
def test_an_upgrade_carries_on(project: Faulty, undisturbed: EndState, fault: Fault) -> None:
    if "_fill" in fault["at"]:
        project.write_corpus(documents(200))  # another file: the spool is made anew

    killed = project.end("upgrade", faults=[fault])
    assert killed.process.returncode == -signal.SIGKILL, killed.errors
    again = project.end("upgrade")

    assert again.process.returncode == 0, again.errors
    assert project.end_state([QUERY]).differences(undisturbed) == []
    assert command.verify(project.settings)["holds"]
    assert max(project.paid_twice().values(), default=0) <= 2 * BATCH
    assert project.upgrade() == [] and project.phase(project.status()["revision"]) == "settled"
