"""The fault harness in full: kills, races, changes and switches, with a log to resume from.

    python -m benchmarks.faults                            everything, about half an hour
    python -m benchmarks.faults --forms points kills       some of it
    python -m benchmarks.faults --server own --store pgvector    on a PostgreSQL server of its own
    python -m benchmarks.faults --seeds 1 --kills 20 --races 50 --changes 400 --switches 20

Every finished case is a line of JSON in the log (`--log`); called again it goes on where it was
stopped. The table at the end counts all that the log holds. Exits 1 when a case is not good, or a
control, where a protection is off, is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedmigrate.testing import Case, CrashPoint, Harness
from embedmigrate.testing.cuts import HOW

if TYPE_CHECKING:
    from tests.postgres_server import PostgresServer

FORMS = ("points", "kills", "races", "sleepers", "late", "changes", "switches", "controls")
ON_A_SERVER = (*FORMS, "cuts", "restarts", "server kills")
_STORES = {
    "faiss": '{ kind = "faiss", path = "indexes" }',
    "pgvector": '{ kind = "pgvector", url = "$DATABASE" }',
}
_SWITCHES_A_CASE = 100
_BETWEEN = CrashPoint("between", "writer.write", "before", "upgrade", "counted, not stored", 4)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--forms", nargs="+", choices=ON_A_SERVER)
    parser.add_argument("--seeds", type=int, default=5, help="of each crash point")
    parser.add_argument("--kills", type=int, default=500, help="at random moments")
    parser.add_argument("--races", type=int, default=1000)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--changes", type=int, default=100_000)
    parser.add_argument("--switches", type=int, default=2000, help="cut-overs and rollbacks")
    parser.add_argument("--store", default="faiss", help="faiss, pgvector, or a TOML table")
    parser.add_argument("--server", help="URL of a PostgreSQL server, or `own`: one is started")
    parser.add_argument("--server-kills", type=int, default=20)
    parser.add_argument("--log", type=Path, default=Path("faults.jsonl"))
    parser.add_argument("--folder", type=Path, help="where the projects are made")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=options.folder or _fast()))
    log = Log(options.log)
    options.store = _STORES.get(options.store, options.store)
    options.own = _server() if options.server == "own" else None
    if options.own is not None:
        options.server = options.own.url()
    try:
        harness = Harness(folder, store=options.store, server=options.server)
        log.begin(harness.facts())
        for form in options.forms or (ON_A_SERVER if options.own else FORMS):
            for case in _CASES[form](harness, log, options):
                log.add(case)
                verdict = "BAD" if is_bad(case) else "ok "
                print(f"{verdict} {case.seconds:7.1f} s  {case}", flush=True)
    finally:
        if not log.bad():
            shutil.rmtree(folder, ignore_errors=True)
        if options.own is not None:
            options.own.close()
    print("\n".join(["", *log.table(), "", *log.said()]))
    if bad := log.bad():
        print(f"\n{len(bad)} cases are not as they must be; their projects are in {folder}")
    sys.exit(1 if bad else 0)


def _server() -> PostgresServer:
    from tests.postgres_server import PostgresServer

    return PostgresServer()


def _fast() -> str | None:
    """Memory, if there is such a file system: kill -9 does not ask whether a disk has written."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def is_bad(case: Case) -> bool:
    """Whether a case is not as it must be: a control has to be noticed."""
    return case.good is (case.form == "controls")


@dataclass
class Log:
    """The cases that are finished, in a file."""

    path: Path
    cases: list[Case] = field(default_factory=list)
    facts: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        lines = self.path.read_text("utf-8").splitlines() if self.path.exists() else []
        for line in map(json.loads, lines):
            if "versions" in line:
                self.facts.append(line["versions"])
            else:
                self.cases.append(Case.from_json(line))
        self._done = {(case.form, case.name, case.seed) for case in self.cases}

    def begin(self, versions: dict[str, Any]) -> None:
        if versions not in self.facts:
            self.facts.append(versions)
            self._write({"versions": versions})

    def has(self, form: str, name: str, seed: int) -> bool:
        return (form, name, seed) in self._done

    def of(self, form: str) -> list[Case]:
        return [case for case in self.cases if case.form == form]

    def add(self, case: Case) -> None:
        self._done.add((case.form, case.name, case.seed))
        self.cases.append(case)
        self._write({**case.to_json(), "at": time.strftime("%Y-%m-%d %H:%M:%S")})

    def _write(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def bad(self) -> list[Case]:
        return [case for case in self.cases if is_bad(case)]

    def table(self) -> Iterator[str]:
        yield "| form | cases | kills | lost | resurrected | stale | duplicate | mixed | other "
        yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
        forms: defaultdict[str, list[Case]] = defaultdict(list)
        for case in self.cases:
            forms[case.form].append(case)
        for form, cases in forms.items():
            counts = [
                sum(len(getattr(case.findings, fault)) for case in cases)
                for fault in ("lost", "resurrected", "stale", "duplicate", "mixed", "other")
            ]
            counts[-1] += sum(len(case.faults) for case in cases)
            kills = sum(case.kills for case in cases)
            yield f"| {form} | {len(cases)} | {kills} | {' | '.join(map(str, counts))} |"

    def said(self) -> Iterator[str]:
        """Figures besides the faults."""
        waste = [case.findings for case in self.cases if case.kills and case.form != "controls"]
        if waste:
            most = max(it.paid_twice for it in waste)
            yield (
                f"texts paid twice: {sum(it.paid_twice for it in waste)} in all, {most} at most; "
                f"allowed {sum(it.allowed for it in waste)} in all"
            )
        for form in ("changes", "switches"):
            cases = self.of(form)
            for name in dict.fromkeys(name for case in cases for name in case.facts):
                values = [case.facts.get(name, 0) for case in cases]
                value = max(values) if "pause" in name or "seconds" in name else sum(values)
                yield f"{form}, {name}: {value}"
        for facts in self.facts:
            yield ", ".join(f"{name} {version}" for name, version in facts.items())


# -- the cases --------------------------------------------------------------------------------

_Options = argparse.Namespace
_Cases = Callable[[Harness, Log, _Options], Iterator[Case]]


def _points(harness: Harness, log: Log, options: _Options) -> Iterator[Case]:
    for seed in range(options.seeds):
        for point in harness.points:
            if not log.has("points", point.name, seed):
                yield harness.crash(point, seed)


def _kills(harness: Harness, log: Log, options: _Options) -> Iterator[Case]:
    done = log.of("random kills")
    left = options.kills - sum(case.kills for case in done)
    yield from harness.kill_at_random(left, seed=max((it.seed for it in done), default=-1) + 1)


def _races(harness: Harness, log: Log, options: _Options) -> Iterator[Case]:
    for seed in range(options.races):
        if not log.has("races", f"race {seed}", seed):
            yield harness.race(seed)


def _sleepers(harness: Harness, log: Log, options: _Options) -> Iterator[Case]:
    for seed in range(options.seeds):
        for point in harness.sleepers:
            if not log.has("sleepers", point.name, seed):
                yield harness.sleep(point, seed)


def _late(harness: Harness, log: Log, options: _Options) -> Iterator[Case]:
    for seed in range(options.seeds):
        if not log.has("late writes", f"write {seed}", seed):
            yield harness.late_write(seed)


def _changes(harness: Harness, log: Log, options: _Options) -> Iterator[Case]:
    for source in ("managed", "sql"):
        if not log.has("changes", f"{options.writers} writers, {source}", 0):
            yield harness.change(
                writers=options.writers,
                changes=options.changes // 2,
                in_window=50,
                source=source,
                pause=0.004,
            )


def _switches(harness: Harness, log: Log, options: _Options) -> Iterator[Case]:
    done = log.of("switches")
    left = options.switches - sum(case.facts["switches"] for case in done)
    seed = max((case.seed for case in done), default=-1) + 1
    while left > 0:
        yield harness.switch(min(left, _SWITCHES_A_CASE), seed)
        left, seed = left - _SWITCHES_A_CASE, seed + 1


def _cuts(harness: Harness, log: Log, options: _Options) -> Iterator[Case]:
    for commit in range(1, harness.commits + 1):
        for how in HOW:
            if not log.has("cuts", f"{how} at commit {commit}", 0):
                yield harness.cut(commit, how)


def _restarts(harness: Harness, log: Log, options: _Options) -> Iterator[Case]:
    yield from _disturbed(harness, log, options, "restarts", options.own.stop)


def _server_kills(harness: Harness, log: Log, options: _Options) -> Iterator[Case]:
    yield from _disturbed(harness, log, options, "server kills", options.own.kill)


def _disturbed(
    harness: Harness, log: Log, options: _Options, form: str, end: Callable[[], None]
) -> Iterator[Case]:
    """Until the server went away so many times while a command ran."""

    def disturb() -> None:
        end()
        time.sleep(0.3)
        options.own.start()

    done = log.of(form)
    hit, seed = sum(case.kills for case in done), len(done)
    while hit < options.server_kills:
        case = harness.interrupt(disturb, seed)
        case.form = form
        hit, seed = hit + case.kills, seed + 1
        yield case


def _controls(harness: Harness, log: Log, options: _Options) -> Iterator[Case]:
    tries: dict[str, tuple[tuple[str, ...], Callable[[Harness], Case]]] = {
        "a checkpoint before its write": (
            ("checkpoint_order", "comparison"),
            lambda broken: broken.crash(_BETWEEN),
        ),
        "kills without a journal": (
            ("journal",),
            lambda broken: next(broken.kill_at_random(6)),
        ),
        "paid twice": (("resumption",), lambda broken: broken.crash("moved to catching up")),
        "no lock": (("lock",), lambda broken: broken.race()),
        "no fence": (("fencing",), lambda broken: broken.sleep("rows committed")),
        "no seqs": (("seqs", "verification"), lambda broken: broken.late_write()),
        "changes without a journal": (("journal",), lambda broken: broken.change()),
        "queries of another model": (("query_model",), lambda broken: broken.switch(2)),
    }
    for number, (name, (off, run)) in enumerate(tries.items()):
        if not log.has("controls", name, 0):
            with tempfile.TemporaryDirectory(prefix="control-") as folder:
                protections = [f"tests.faults.off:{protection}" for protection in off]
                points = (*harness.points, _BETWEEN)
                broken = Harness(
                    Path(folder) / str(number),
                    store=options.store,
                    server=options.server,
                    off=protections,
                    points=points,
                )
                case = run(broken)
            case.form, case.name, case.seed = "controls", name, 0
            yield case


_CASES: dict[str, _Cases] = {
    "points": _points,
    "kills": _kills,
    "races": _races,
    "sleepers": _sleepers,
    "late": _late,
    "changes": _changes,
    "switches": _switches,
    "controls": _controls,
    "cuts": _cuts,
    "restarts": _restarts,
    "server kills": _server_kills,
}


if __name__ == "__main__":
    main()
