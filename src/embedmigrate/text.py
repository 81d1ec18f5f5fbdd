"""Results of commands as text for people; ``--json`` prints the same results as they are."""

from __future__ import annotations

import time
from typing import Any


def moved(result: dict[str, Any]) -> str:
    """What an upgrade or a cut-over did."""
    lines, told = [], list[str]()
    for entry in result["collections"]:
        told += [entry["revision"], *entry["superseded"]]
        if entry["error"]:
            lines.append(f"{entry['collection']}: failed: {entry['error']}")
            continue
        if entry["held"]:
            lines.append(f"{entry['collection']}: {printable(entry['held'])}")
            continue
        lines.append(
            f"{entry['collection']}: {_model(entry, entry['model'].rpartition('@')[0])} "
            f"{'is live' if entry['live'] else 'is ready'} in index {_in(entry)}, "
            f"generation {entry['generation']} "
            + (
                f"({entry['done']} documents, {entry['skipped']} skipped, "
                + (f"{entry['failed']} failed, " if entry["failed"] else "")
                + f"{entry['embedded']} embedded)"
                if entry["container"] in (None, entry["index"])
                else "(its vectors stay, none was embedded)"
            )
        )
    lines += [f"applied {name}: moves nothing" for name in result["applied"] if name not in told]
    return "\n".join(lines) or "nothing to do"


def went_back(result: dict[str, Any]) -> str:
    """What a downgrade or a rollback did."""
    lines, told = [], list[str]()
    for entry in result["collections"]:
        told += entry["undone"]
        live = f"index {entry['live']} is live again" if entry["live"] else "nothing is live"
        lines.append(
            f"{entry['collection']}: {live}, generation {entry['generation']}; "
            f"undone: {', '.join(entry['undone'])}"
        )
    lines += [f"undone {name}: moves nothing" for name in result["undone"] if name not in told]
    return "\n".join(lines) or "nothing to do"


def pinned(result: dict[str, Any]) -> str:
    """What a model is, and what its witness can tell."""
    witness = result["witness"]
    lines = [
        _model(result, result["reference"]),
        f"{'wrote' if result['changed'] else 'kept'} {result['path']}",
        *_of_package(result["package"]),
        f"witness: {witness['canaries']} canaries on {witness['runtime']}, noise "
        f"{witness['noise']:.2g}; the smallest change that it detects is a cosine distance of "
        f"{witness['detects']:.2g}",
    ]
    if witness["detects_in_batches"] > witness["detects"]:
        lines.append(
            f"  in batches its answers vary by {witness['batch_noise']:.2g}: a change below "
            f"{witness['detects_in_batches']:.2g} is hidden in stored vectors"
        )
    if dated := result["dated_name"]:
        lines.append(f'the server answers as {dated}: model = "{dated}" would pin that version')
    if result["same_space_as"]:
        lines.append(f"the same space as {', '.join(result['same_space_as'])}")
    if result["configure"]:
        lines.append(f"now put into [models.{result['name']}]: {result['configure']}")
    return "\n".join(lines)


def _of_package(package: dict[str, Any] | None) -> list[str]:
    if package is None:
        return []
    lines = [
        f"{package['files']} files, {package['bytes'] / 1e6:.1f} MB, from "
        f"{printable(package['source'])}"
    ]
    if package["vendored"]:
        lines.append(f"loaded from {package['vendored']}, and from nowhere else")
    return lines


def restored(result: dict[str, Any]) -> str:
    """Which files of a vendored copy were put back."""
    folder = result["package"]["vendored"]
    files = [f"put back {folder}/{name}" for name in result["restored"]]
    return "\n".join([result["reference"], *(files or [f"{folder} is whole"])])


def drifted(result: dict[str, Any]) -> str:
    """A verdict a model, with figures; the canaries that moved most; what it does to search."""
    lines = []
    for entry in result["models"]:
        lines.append(
            f"{entry['verdict']:<5} {entry['reference']} ({entry['assurance']}) on "
            f"{' '.join(filter(None, (entry['runtime'], entry['processor'])))}: largest cosine "
            f"distance {entry['largest']:.2g}, median {entry['median']:.2g}, "
            f"alarm above {entry['threshold']:.2g}"
        )
        lines += [f"      {reason}" for reason in entry["reasons"]]
        if entry["record_added"]:
            lines.append("      a record of this platform was added to its pin file: commit it")
        if entry["verdict"] != "DRIFT":
            continue
        worst = sorted(entry["figures"], key=lambda figure: -figure["distance"])[:5]
        lines += [
            f"      {figure['canary']} ({figure['side']}): distance {figure['distance']:.3g}, "
            f"norm x {figure['norm_ratio']:.4g}"
            for figure in worst
        ]
        if near := entry["neighbourhood"]:
            lines.append(
                f"      of the ten nearest canaries {near['overlap']:.0%} are still the same, the "
                f"nearest changed for {near['first_changes']:.0%}; beside recorded vectors "
                f"{near['finds_itself']:.0%} of the new ones find their own"
            )
    return "\n".join(lines) or "no model is pinned"


def adopted(result: dict[str, Any]) -> str:
    """What was adopted, and how it was proven."""
    lines = []
    for entry in result["collections"]:
        lines += [
            f"{entry['collection']}: adopted {printable(entry['file'])} as index {entry['index']}, "
            f"generation {entry['generation']}, by revision {entry['revision']}",
            f"  {entry['vectors']} vectors of {entry['model']} ({entry['assurance']}), "
            f"{entry['factory']} with {entry['metric']}",
            f"  proven by a sample: {entry['proven']} of {entry['sample']} vectors are what the "
            f"model makes of their documents (within {entry['tolerance']:.2g}), {entry['stale']} "
            f"stale; at most {entry['bound']:.2%} of all are not, with "
            f"{entry['confidence']:.0%} confidence",
            f"  {entry['missing']} documents without a vector, {entry['orphans']} vectors without "
            "a document",
        ]
        lines += [f"  note: {note}" for note in entry["notes"]]
    return "\n".join(lines)


def audited(result: dict[str, Any]) -> str:
    """What is in a store: counts, the proof by sample, findings."""
    lines = []
    for entry in result["collections"]:
        lines.append(
            f"{entry['collection']} {entry['index']}: {entry['vectors']} vectors, "
            f"{'adopted' if entry['provenance'] == 'adopted' else 'built'}, of "
            f"{entry['model']} ({entry['assurance']})"
        )
        lines += [
            f"  stamped {fingerprint or 'with nothing'}: {count}"
            for fingerprint, count in sorted(entry["by_fingerprint"].items())
        ]
        if (proof := entry["proof"]) is not None:
            lines.append(
                f"  proven by a sample: {proof['proven']} of {proof['sampled']} vectors are what "
                f"their stamp says (within {proof['tolerance']:.2g}), {proof['edited_since']} "
                f"edited since, {proof['wrong']} wrong; at most {proof['at_most_wrong']:.2%} are "
                f"wrong, with {proof['confidence']:.0%} confidence"
            )
            if proof["wrong_ids"]:
                lines.append(f"    wrong: {', '.join(map(printable, proof['wrong_ids']))}")
        lines += [f"  FOUND {finding}" for finding in entry["findings"]]
        if not entry["findings"]:
            lines.append("  nothing found")
    return "\n".join(lines)


def attributed(result: dict[str, Any]) -> str:
    """Who made the vectors: a line a maker, with its share and interval; then what is unproven."""
    lines = []
    for entry in result["collections"]:
        lines.append(
            f"{entry['collection']} {entry['index']}: {entry['sampled']} of {entry['vectors']} "
            f"vectors sampled, {entry['embeddings']} texts embedded"
        )
        for made in entry["made"]:
            margin = made["smallest_margin"]
            lines.append(
                f"  {_proportion(made['proportion'])} by {made['candidate']} "
                f"({made['model']}), within {made['largest_distance']:.2g}"
                + (f", any other at least {margin:.2g} further" if margin is not None else "")
            )
        lines += [
            f"  {_proportion(proportion)} {kind}: not proven"
            for kind, proportion in entry["kinds"].items()
            if kind != "proven" and proportion["vectors"]
        ]
        lines += [
            f"    {printable(it['id'])}: {it['kind']}"
            + (
                f", nearest to {it['candidate']} at {it['distance']:.2g}"
                if it["distance"] is not None
                else ""
            )
            for it in entry["unproven"]
        ]
        lines += [f"  FOUND {finding}" for finding in entry["findings"]]
    return "\n".join(lines)


def _proportion(it: dict[str, Any]) -> str:
    return f"{it['vectors']:>6} ({it['share']:.1%}, between {it['low']:.1%} and {it['high']:.1%})"


def observed(result: dict[str, Any]) -> str:
    """A line an observation; the way out of each trouble below it."""
    lines = []
    for it in result["observations"]:
        lines.append(f"{'ok' if it['trouble'] is None else 'NO':<3} {it['what']}: {it['found']}")
        if it["trouble"] is not None:
            lines += [f"    {line.strip()}" for line in it["trouble"].splitlines()[1:]]
        elif it["advice"] is not None:
            lines.append(f"    advice: {it['advice']}")
    return "\n".join(lines)


def rebuilt(result: dict[str, Any]) -> str:
    """What a rebuilt catalog says, or would say, and what is lost."""
    if not result["needed"]:
        return "nothing is lost: the catalog knows every index that is there"
    lines = [f"catalog {result['catalog_id']}"]
    for entry in result["collections"]:
        told = "nothing is live"
        if entry["live"] is not None:
            told = (
                f"index {entry['live']} is live, generation {entry['generation']}, "
                f"by revision {entry['revision']}"
            )
        lines.append(f"{entry['collection']}: {told}")
        for it in entry["indexes"]:
            shared = "" if it["container"] == it["index"] else f" in {it['container']}"
            lines.append(f"  {it['state']:<9} {it['index']}{shared}, of {it['model']}")
        if entry["undone"]:
            lines.append(f"  taken for rolled back by a person: {', '.join(entry['undone'])}")
    lines += [
        f"left alone: {printable(it['index'])}: {printable(it['why'])}"
        for it in result["left_alone"]
    ]
    lines.append(f"lost with the old one: {', '.join(result['lost'])}")
    if not result["done"]:
        lines.append("nothing was changed; with --yes it is made so")
    elif result["kept"] is not None:
        lines.append(f"the catalog that was there is kept as {printable(result['kept'])}")
    if result["done"]:
        lines.append("next: embedmigrate sync, which compares what is live with its source")
    return "\n".join(lines)


def health(result: dict[str, Any]) -> str:
    """A line a collection: what is served, or what is wrong."""
    lines = []
    for entry in result["collections"]:
        if entry["ok"]:
            note = ", in transition" if entry["in_transition"] else ""
            lines.append(
                f"{entry['collection']}: sound; {entry['model']} ({entry['assurance']}) in "
                f"{entry['index']}, generation {entry['generation']}{note}"
            )
        else:
            lines.append(f"{entry['collection']}: NOT SOUND")
            lines += [f"  {line}" for it in entry["problems"] for line in it.splitlines()]
        for it in entry.get("warnings", []):
            lines += [f"  {line}" for line in f"warning: {it}".splitlines()]
    return "\n".join(lines)


def planned(result: dict[str, Any]) -> str:
    """What an upgrade would do."""
    return (
        "\n".join(
            f"{entry['collection']}: {entry['source'] or 'nothing'} -> "
            f"{_model(entry, entry['target'])}, "
            + (
                f"with the query prompt {entry['query_prompt']!r}, "
                if entry["source"] == entry["target"]
                else ""
            )
            + (
                "rebind: the vectors stay, a sample of them is proven"
                if entry["rebind"]
                else f"{entry['documents']} documents, {_size(entry)}, {entry['factory']}"
            )
            + f", revision {entry['revision']}"
            + (f" (instead of {', '.join(entry['superseded'])})" if entry["superseded"] else "")
            for entry in result["collections"]
        )
        or "nothing to do"
    )


def _size(planned: dict[str, Any]) -> str:
    if cut := planned["chunker"]:
        return f"cut into chunks of {cut['size']} tokens, {cut['overlap']} shared"
    return f"{planned['vector_bytes'] / 1e6:.1f} MB of vectors"


def status(result: dict[str, Any]) -> str:
    """Every collection: live, being built, retained."""
    lines = []
    for entry in result["collections"]:
        live, shadow = entry["live"], entry["shadow"]
        lines.append(f"{entry['collection']} at revision {entry['revision'] or 'none'}")
        lines.append(
            "  live:     nothing"
            if live is None
            else f"  live:     {_model(live)} in {_in(live)}, generation "
            f"{live['generation']}, "
            + ("adopted, " if live["provenance"] == "adopted" else "")
            + (
                "cannot be opened"
                if live["documents"] is None
                else f"{live['documents']} documents"
            )
        )
        if live is not None and live["lag"] is not None:
            waiting = live["lag"]["entries"]
            lines.append(
                f"  changes:  {waiting} waiting"
                + (f", the oldest for {live['lag']['seconds']:.0f} s" if waiting else "")
                + (f"; {CHANGES[live['changes']]}" if live["changes"] else "")
                + (f", last at {_when(live['compared_at'])}" if _as_of_then(live) else "")
            )
        if shadow is not None:
            lines.append(
                f"  shadow:   {_model(shadow)} in {_in(shadow)}, {shadow['state']}, "
                f"{shadow['done']} of {shadow['total']}"
                + (f" ({printable(shadow['reason'])})" if shadow["reason"] else "")
            )
        lines += [
            f"  retained: {_model(retained)} in {_in(retained)}"
            + (", adopted" if retained["provenance"] == "adopted" else "")
            + (
                f", revision {retained['revision']} was {retained['state'].replace('_', ' ')} "
                f"({printable(retained['reason'] or 'no reason given')})"
                if retained["state"]
                else ""
            )
            for retained in entry["retained"]
        ]
        lines += _dead_letters(entry["dead_letters"])
        if entry["runner"]:
            lines.append(f"  runner:   {printable(entry['runner'])}")
        if entry["waiting"]:
            lines.append(f"  waiting:  {printable(entry['waiting'])}")
        if (asked := entry["request"]) is not None:
            lines.append(f"  asked:    {asked['wanted']}, by {_asker(asked)}")
    return "\n".join(lines)


def _asker(asked: dict[str, Any]) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(asked["at"]))
    return printable(f"{asked['by']}, {when}: {asked['reason'] or 'no reason given'}")


def controlled(result: dict[str, Any]) -> str:
    """What is asked of a collection now, and what became of its run."""
    lines = []
    for entry in result["collections"]:
        asked, state = entry["request"], entry["state"]
        if asked is not None and asked["wanted"] == "pause":
            waits = entry["runner"] is not None and state != "paused"
            said = f"pause asked of {entry['runner']}" if waits else "paused"
            said += f" by {_asker(asked)}; to carry on: embedmigrate resume {entry['collection']}"
        elif asked is not None:
            said = f"cancel asked of {entry['runner'] or 'the next upgrade'} by {_asker(asked)}"
        elif state == "cancelled":
            said = f"revision {entry['revision']} is cancelled ({entry['reason'] or 'no reason'})"
            if not entry["dropped"]:
                said += "; its shadow, if any, goes with: embedmigrate contract --abandoned"
        elif state is not None:
            said = f"revision {entry['revision']} is {state}; embedmigrate upgrade carries it on"
        else:
            said = "nothing is being built, and nothing is asked"
        if entry["dropped"]:
            said += f"; dropped {', '.join(entry['dropped'])}"
        lines.append(f"{entry['collection']}: {printable(said)}")
    return "\n".join(lines)


def _dead_letters(lists: list[dict[str, Any]]) -> list[str]:
    lines = []
    for it in lists:
        lines.append(
            f"  failed:   {it['count']} document{'s' * (it['count'] > 1)} of {it['index']} "
            "cannot be embedded"
        )
        lines += [
            f"    {printable(letter['document_id'])}: {letter['reason']}, {letter['attempts']} "
            f"attempt{'s' * (letter['attempts'] > 1)}"
            for letter in it["documents"]
        ]
        if it["count"] > len(it["documents"]):
            lines.append(f"    … and {it['count'] - len(it['documents'])} more")
    return lines


def _in(entry: dict[str, Any]) -> str:
    """The index of an entry, and whose vectors it asks if they are not its own."""
    index, container = entry["index"], entry["container"]
    return str(index) if container == index else f"{index} (vectors of {container})"


def synced(result: dict[str, Any]) -> str:
    """A line a collection: what was done, and how its changes are learned of."""
    lines = []
    for it in result["collections"]:
        if "error" in it:
            lines.append(f"{it['collection']}: {it['error']}")
            continue
        lines.append(
            f"{it['collection']}: {it['written']} written ({it['embedded']} embedded), "
            f"{it['metadata']} metadata, {it['deleted']} deleted"
            + (f", {it['failed']} that cannot be embedded" if it["failed"] else "")
            + f" in {it['index']}, "
            f"{it['lag']['entries']} waiting; {CHANGES[it['changes']]}"
        )
    return "\n".join(lines)


def _as_of_then(live: dict[str, Any]) -> bool:
    """Whether an index is known to be as its source only as of their last comparison."""
    return live["compared_at"] is not None and live["changes"] in ("updated_at", "comparison")


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


CHANGES = {
    "capture": "changes are recorded by the source",
    "application": "changes are told by the application",
    "updated_at": "updated_at is a hint, and source and index are compared",
    "comparison": "source and index are compared",
}
"""How changes are learned of, in words."""


def captured(result: dict[str, Any]) -> str:
    """Whether changes are recorded now, and what the triggers cannot see."""
    state = "are recorded" if result["recording"] else "are not recorded"
    lines = [
        f"{result['collection']}: changes {state}" + ("" if result["changed"] else ", as before")
    ]
    lines += [
        f"  not seen: rows that REPLACE removes for {name}, a unique index over expressions"
        for name in result["unseen"]
    ]
    return "\n".join(lines)


def hits(result: dict[str, Any]) -> str:
    """A line a hit: score and id, and the chunk where documents are cut."""
    cut = any(hit["chunk"] for hit in result["hits"])
    return "\n".join(
        f"{hit['score']:.4f}  {printable(hit['id'])}" + f"  chunk {hit['chunk']}" * cut
        for hit in result["hits"]
    )


def verified(result: dict[str, Any]) -> str:
    """A line an invariant, with what was measured."""
    return "\n".join(
        f"{entry['collection']} {entry['index']} I{finding['invariant']} {finding['title']}: "
        f"{'holds' if finding['holds'] else 'DOES NOT HOLD'} ({_figures(finding['measured'])})"
        for entry in result["collections"]
        for finding in entry["invariants"]
    )


def checked(result: dict[str, Any]) -> str:
    """A line a collection, and one for each applied script that is not what it was."""
    lines = []
    for entry in result["collections"]:
        lines.append(f"{entry['collection']}: {'; '.join(entry['differences']) or 'agrees'}")
        if entry["next_step"]:
            lines.append(f"  next:     {entry['next_step']}")
    return "\n".join(lines + [f"scripts: {difference}" for difference in result["scripts"]])


def policy(result: dict[str, Any]) -> str:
    """A line a rule, and under it what breaks it: where, what was found, expected, what next."""
    lines = []
    if result["frozen"]:
        lines.append(f"recorded as applied: {', '.join(result['frozen'])}")
    for entry in result["checks"]:
        said = {True: "holds", False: "FAILS", None: "not checked"}[entry["holds"]]
        lines.append(f"{entry['check']}: {said} ({entry['title']})")
        for finding in result["findings"]:
            if finding["check"] == entry["check"]:
                lines += [f"  {printable(line)}" for line in _finding(finding)]
    return "\n".join(lines)


def _finding(finding: dict[str, Any]) -> list[str]:
    place = [str(part) for part in (finding["file"], finding["line"]) if part is not None]
    return [
        ": ".join(filter(None, (":".join(place), finding["message"]))),
        f"  found:    {finding['found']}",
        f"  expected: {finding['expected']}",
        f"  next:     {finding['next_step']}",
    ]


def _model(entry: dict[str, Any], name: str | None = None) -> str:
    """A model's name; what only its witness tells is never passed off as pinned."""
    said = entry["model"] if name is None else name
    return f"{said} (witnessed)" if entry["assurance"] == "witnessed" else str(said)


def _figures(measured: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in measured.items())


def printable(value: str) -> str:
    """``value`` on one line: what would move the cursor or colour the terminal is escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in value
    )
