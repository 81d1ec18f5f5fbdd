import signal

from embedmigrate import command
from tests.faults.conftest import *
from tests.faults.project import *

CATALOG="embedmigrate.catalog"; ENGINE="embedmigrate.engine"; FAISS="embedmigrate.stores.faiss"

def add_c(project):
    with (project.root/"embedmigrate.toml").open("a") as f:
        f.write('\n[models.fake-c]\nprovider = "hashing-not-a-model"\ndimensions = 16\n')
    command.pin(project.settings, "fake-c")
    project.revision("fake-c", "third")

def test_superseded(project):
    add_c(project)
    k = project.end("upgrade", faults=[kill_at(f"{CATALOG}.routes:cut_over")])
    assert k.process.returncode == -9, k.errors
    again = project.end("upgrade")
    print(again.errors)
    assert again.process.returncode == 0

def test_superseded_down(project):
    add_c(project)
    k = project.end("upgrade", faults=[kill_at(f"{CATALOG}.routes:cut_over")])
    assert k.process.returncode == -9, k.errors
    again = project.end("downgrade", "articles@-1")
    print(again.errors, project.status())
    assert project.live() == "fake-a"

def test_superseded_rollback(project):
    add_c(project)
    k = project.end("upgrade", faults=[kill_at(f"{CATALOG}.routes:cut_over")])
    assert k.process.returncode == -9, k.errors
    again = project.end("rollback", "articles")
    print(again.errors, project.status())
    assert project.live() == "fake-a"

def test_two_step_down(project):
    project.upgrade()
    add_c(project); project.upgrade()
    base = command.history(project.settings)
    first = [l for l in base.splitlines() if "first index" in l][0]
    print(base)
    rev = first.split(" -> ")[1].split()[0]
    k = project.end("downgrade", rev, faults=[kill_at(f"{CATALOG}.routes:undo", call=2)])
    assert k.process.returncode == -9, k.errors
    print(project.status())
    a = project.end("upgrade"); print("UPGRADE", a.errors)
    again = project.end("downgrade", rev)
    print(again.errors, project.status())
    assert project.live() == "fake-a"

def test_cutover(project):
    project.upgrade(until_ready=True)
    k = project.end("cutover", faults=[kill_at(f"{ENGINE}.prepare:verify")])
    assert k.process.returncode == -9, k.errors
    again = project.end("cutover")
    print(again.errors)
    assert again.process.returncode == 0

def test_contract(project):
    project.edit_config("[embedmigrate]", "[embedmigrate]\nretain_seconds = 0")
    project.upgrade()
    k = project.end("contract", faults=[kill_at(f"{FAISS}.store:FaissStore.drop")])
    assert k.process.returncode == -9, k.errors
    again = project.end("contract")
    print(again.errors, list((project.root/"indexes").iterdir()))
    assert again.process.returncode == 0
    assert len(list((project.root/"indexes").iterdir())) == 1

def test_locked_walk(project):
    import sqlite3
    r = project.begin("upgrade", faults=[{"at":"embedmigrate.command.forward:_walk","do":"send","with_":"SIGSTOP"}], constants={f"{CATALOG}.database:BUSY_TIMEOUT_SECONDS": 1})
    r.wait_until_stopped()
    db = sqlite3.connect(project.root/"catalog.db", isolation_level=None); db.execute("BEGIN IMMEDIATE")
    r.send(signal.SIGCONT)
    status = r.finish()
    db.rollback(); db.close()
    print(r.errors)
    assert status == 75

def test_rollback_now(project):
    project.upgrade()
    docs = documents(200); docs[0]["text"] = "changed"
    project.write_corpus(docs)
    k = project.end("rollback", "articles", "--now", faults=[kill_at("embedmigrate.command.back:_settle")])
    assert k.process.returncode == -9, k.errors
    print(project.status())
    again = project.end("upgrade")
    print(again.errors)
    print(command.verify(project.settings)["holds"])
    print(project.phase("x"), project.end_state().settled)
    again = project.end("rollback", "articles"); print(again.errors, project.live())

def test_spool_disk(project):
    import errno
    k = project.end("upgrade", faults=[{"at":"tempfile:TemporaryFile","do":"fail","with_":errno.ENOSPC}])
    print(k.errors)
    assert k.process.returncode == 75
