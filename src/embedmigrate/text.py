"""Results of commands as text for people; ``--json`` prints the same results as they are."""

from __future__ import annotations

from typing import Any


def moved(result: dict[str, Any]) -> str:
    """What an upgrade or a cut-over did."""
    lines, told = [], list[str]()
    for entry in result["collections"]:
        told += [entry["revision"], *entry["superseded"]]
        if entry["error"]:
            lines.append(f"{entry['collection']}: failed: {entry['error']}")
            continue
        lines.append(
            f"{entry['collection']}: {entry['model'].partition('@')[0]} "
            f"{'is live' if entry['live'] else 'is ready'} in index {entry['index']}, "
            f"generation {entry['generation']} "
            f"({entry['done']} documents, {entry['skipped']} skipped, "
            f"{entry['embedded']} embedded)"
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
        result["reference"] + (" (witnessed)" if result["assurance"] == "witnessed" else ""),
        f"{'wrote' if result['changed'] else 'kept'} {result['path']}",
        f"witness: {witness['canaries']} canaries on {witness['runtime']}, noise "
        f"{witness['noise']:.2g}; the smallest change that it detects is a cosine distance of "
        f"{witness['detects']:.2g}",
    ]
    if witness["detects_in_batches"] > witness["detects"]:
        lines.append(
            f"  in batches its answers vary by {witness['batch_noise']:.2g}: a change below "
            f"{witness['detects_in_batches']:.2g} is hidden in stored vectors"
        )
    if result["same_space_as"]:
        lines.append(f"the same space as {', '.join(result['same_space_as'])}")
    return "\n".join(lines)


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
            f"{entry['collection']}: {entry['source'] or 'nothing'} -> {entry['target']}, "
            f"{entry['documents']} documents, {entry['vector_bytes'] / 1e6:.1f} MB of vectors, "
            f"{entry['factory']}, revision {entry['revision']}"
            + (f" (instead of {', '.join(entry['superseded'])})" if entry["superseded"] else "")
            for entry in result["collections"]
        )
        or "nothing to do"
    )


def status(result: dict[str, Any]) -> str:
    """Every collection: live, being built, retained."""
    lines = []
    for entry in result["collections"]:
        live, shadow = entry["live"], entry["shadow"]
        lines.append(f"{entry['collection']} at revision {entry['revision'] or 'none'}")
        lines.append(
            "  live:     nothing"
            if live is None
            else f"  live:     {live['model']} in {live['index']}, generation "
            f"{live['generation']}, "
            + (
                "cannot be opened"
                if live["documents"] is None
                else f"{live['documents']} documents"
            )
        )
        if shadow is not None:
            lines.append(
                f"  shadow:   {shadow['model']} in {shadow['index']}, {shadow['state']}, "
                f"{shadow['done']} of {shadow['total']}"
                + (f" ({printable(shadow['reason'])})" if shadow["reason"] else "")
            )
        lines += [
            f"  retained: {retained['model']} in {retained['index']}"
            + (
                f", revision {retained['revision']} was {retained['state'].replace('_', ' ')} "
                f"({printable(retained['reason'] or 'no reason given')})"
                if retained["state"]
                else ""
            )
            for retained in entry["retained"]
        ]
        if entry["runner"]:
            lines.append(f"  runner:   {printable(entry['runner'])}")
    return "\n".join(lines)


def hits(result: dict[str, Any]) -> str:
    """A line a hit: score and id."""
    return "\n".join(f"{hit['score']:.4f}  {printable(hit['id'])}" for hit in result["hits"])


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
    lines = [
        f"{entry['collection']}: {'; '.join(entry['differences']) or 'agrees'}"
        for entry in result["collections"]
    ]
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


def _figures(measured: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in measured.items())


def printable(value: str) -> str:
    """``value`` on one line: what would move the cursor or colour the terminal is escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in value
    )
