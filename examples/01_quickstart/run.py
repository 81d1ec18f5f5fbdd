"""From one real model to another, and back: 600 abstracts, 100 known queries.

    python examples/01_quickstart/run.py [FOLDER]

The commands are run as you would type them. This script is the application: it opens its
collection once, searches before and after the switch, and is never restarted.
FOLDER is a new folder for the project; without it, `build` beside this file is made anew.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import ir_measures

from embedmigrate import Collection
from embedmigrate.collection import SearchResult

HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "data"

Judgements = dict[str, dict[str, int]]
Answers = dict[str, SearchResult]


def main(arguments: Sequence[str]) -> None:
    project = make_project(arguments)
    queries, judgements = read_queries(), read_judgements()

    say("Pin both models: from here on their names mean exactly these files and settings.")
    run(project, "init", "migrations")
    run(project, "pin", "wordllama")
    run(project, "pin", "minilm")

    say("The first index, with a small and fast model.")
    run(project, "revision", "-m", "first index", "--collection", "articles", "--to", "wordllama")
    run(project, "upgrade")

    with Collection.open("articles", project / "embedmigrate.toml") as articles:
        before = ask(articles, queries)

        say("The change of model: a script to review, a plan, and the work beside the live index.")
        run(project, "revision", "-m", "wordllama to minilm", "--collection", "articles")
        run(project, "plan")
        run(project, "upgrade", "--until", "ready")
        run(project, "status")

        say("The switch. The application goes on with the new pair of index and model.")
        run(project, "cutover")
        after = ask(articles, queries, generation=2)

        say("And back: nothing is embedded. A nightly upgrade does not undo what a person did.")
        run(project, "rollback", "articles", "--reason", "a rehearsal")
        ask(articles, queries, generation=3)
        run(project, "upgrade", expected=3)
        run(project, "upgrade", "articles@head", "--again", "the rehearsal is over")
        ask(articles, queries, generation=4)
        run(project, "status")

    print(comparison(before, after, queries, judgements))
    print(f"\nThe project is in {shown(project)}: look around with `embedmigrate history`.")


# -- the commands -----------------------------------------------------------------------------


def make_project(arguments: Sequence[str]) -> Path:
    """A folder with what a user writes by hand: the configuration, and the documents."""
    if arguments:
        project = Path(arguments[0]).resolve()
    else:
        project = HERE / "build"
        shutil.rmtree(project, ignore_errors=True)
    project.mkdir(parents=True)
    shutil.copy(HERE / "embedmigrate.toml", project)
    shutil.copy(DATA / "corpus.jsonl", project)
    return project


def run(project: Path, *words: str, expected: int = 0) -> None:
    """Run ``embedmigrate words…`` in the project and show what it says."""
    typed = " ".join(f'"{word}"' if " " in word else word for word in words)
    print(f"$ embedmigrate {typed}", flush=True)
    environment = {k: v for k, v in os.environ.items() if k != "EMBEDMIGRATE_CONFIG"}
    command = [sys.executable, "-m", "embedmigrate", *words]
    done = subprocess.run(
        command, cwd=project, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    print(done.stdout.replace(f"{project}{os.sep}", ""), end="", flush=True)
    if done.returncode != expected:
        sys.exit(f"exit status {done.returncode}, expected {expected}")
    if expected:
        print(f"(exit status {expected})")


def say(text: str) -> None:
    print(f"\n# {text}", flush=True)


def shown(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


# -- the application --------------------------------------------------------------------------


def read_queries() -> dict[str, str]:
    records = map(json.loads, (DATA / "queries.jsonl").read_text("utf-8").splitlines())
    return {record["_id"]: record["text"] for record in records}


def read_judgements() -> Judgements:
    judgements: Judgements = {}
    for line in (DATA / "qrels.tsv").read_text("utf-8").splitlines()[1:]:
        query, document, score = line.split("\t")
        judgements.setdefault(query, {})[document] = int(score)
    return judgements


def ask(articles: Collection, queries: dict[str, str], generation: int = 1) -> Answers:
    """All queries, from one generation: an application sees a switch within moments."""
    deadline = time.monotonic() + 60
    while True:
        results = articles.search_many(list(queries.values()), k=10)
        if results[0].generation == generation:
            model = results[0].model
            print(f"  the application: {len(results)} queries, generation {generation}, {model}")
            return dict(zip(queries, results, strict=True))
        if time.monotonic() > deadline:
            sys.exit(f"still generation {results[0].generation}, expected {generation}")
        time.sleep(0.1)


# -- the comparison ---------------------------------------------------------------------------


def comparison(
    before: Answers, after: Answers, queries: dict[str, str], judgements: Judgements
) -> str:
    right_before, right_after = right_first(before, judgements), right_first(after, judgements)
    changed = [query for query in queries if first(before, query) != first(after, query)]
    gained, lost = right_after - right_before, right_before - right_after
    rows = [
        (f"{len(queries)} known queries", "before", "after"),
        ("model", model(before), model(after)),
        ("nDCG@10", f"{ndcg(before, judgements):.4f}", f"{ndcg(after, judgements):.4f}"),
        ("a right document first", f"{len(right_before)}", f"{len(right_after)}"),
    ]
    lines = ["", *(f"{name:<26}{old:>12}{new:>12}" for name, old, new in rows), ""]
    lines.append(
        f"The first hit changed for {len(changed)} queries: "
        f"{len(gained)} gained a right document there, {len(lost)} lost it."
    )
    for query in [*sorted(gained, key=int)[:2], *sorted(lost, key=int)[:1]]:
        lines.append(f'\n  "{clipped(queries[query])}"')
        for answers in (before, after):
            mark = "+" if is_right(answers, query, judgements) else "-"
            title = answers[query].hits[0].metadata["title"]
            lines.append(f"    {mark} {model(answers):<10} {clipped(title)}")
    return "\n".join(lines)


def ndcg(answers: Answers, judgements: Judgements) -> float:
    """Mean nDCG@10. The scores are made of ranks: scoring again must not reorder ties."""
    ranked = {
        query: {hit.id: -float(rank) for rank, hit in enumerate(result.hits)}
        for query, result in answers.items()
    }
    measure = ir_measures.nDCG @ 10
    return float(ir_measures.calc_aggregate([measure], judgements, ranked)[measure])


def right_first(answers: Answers, judgements: Judgements) -> set[str]:
    return {query for query in answers if is_right(answers, query, judgements)}


def is_right(answers: Answers, query: str, judgements: Judgements) -> bool:
    return judgements[query].get(first(answers, query), 0) > 0


def first(answers: Answers, query: str) -> str:
    return answers[query].hits[0].id


def model(answers: Answers) -> str:
    return next(iter(answers.values())).model


def clipped(text: str, width: int = 78) -> str:
    return text if len(text) <= width else f"{text[: width - 1].rstrip()}…"


if __name__ == "__main__":
    main(sys.argv[1:])
