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
