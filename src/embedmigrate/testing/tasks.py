"""What a child does: one command of embedmigrate, watched and broken."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from embedmigrate.errors import EmbedMigrateError, Stopped
from embedmigrate.testing.breaking import Event, count, install, log_what_is_asked, wrap, write_late
from embedmigrate.testing.embedders import Kind, Misbehaving
from embedmigrate.testing.subject import COLLECTION, Subject


@dataclass(frozen=True)
class Order:
    """``verb`` with ``options`` in the project at ``root``.

    ``off`` are protections to be turned off before: ``package.module:function``, called without
    arguments. ``misbehaves`` says how the model does, and from which call for documents on. The
    calls of the places in ``counted`` are the answer; with any, the command may fail.
    """

    root: Path
    verb: str
    options: Mapping[str, Any] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    off: tuple[str, ...] = ()
    counted: tuple[str, ...] = ()
    misbehaves: tuple[Kind, int] | None = None
    late: bool = False
    """Whether the first write to an index arrives once more, late."""


def perform(order: Order) -> Any:
    """To be run by a ``Child``; raises what the command raises."""
    for protection in order.off:
        module, _, name = protection.partition(":")
        getattr(import_module(module), name)()
    counts: dict[str, int] = {}
    for at in dict.fromkeys(order.counted):
        count(at, counts)
    for event in order.events:
        install(event, order.root)
    subject = Subject(order.root)
    log_what_is_asked(subject.asked)
    if order.misbehaves:
        _misbehave(*order.misbehaves)
    if order.late:
        write_late()
    try:
        answer = _VERBS[order.verb](subject, **order.options)
    except EmbedMigrateError:
        if not order.counted:
            raise
    return counts if order.counted else answer


def _misbehave(kind: Kind, first_call: int) -> None:
    def wrapper(load: Callable[..., Any]) -> Callable[..., Any]:
        def loaded(*args: Any) -> Misbehaving:
            return Misbehaving(load(*args), kind, first_call=first_call)

        return loaded

    wrap("embedmigrate.resolve:load_embedder", wrapper)


def _upgrade(subject: Subject, **options: Any) -> None:
    from embedmigrate import command

    command.upgrade(subject.settings, allow_mass_delete=True, **options)


def _rollback(subject: Subject, *, unless_at: str | None = None, **options: Any) -> None:
    """Back from what is live; nothing when ``unless_at`` is live and settled already."""
    from embedmigrate import command

    if unless_at is not None and subject.is_settled_at(unless_at):
        return
    options = {"reason": "tried", "allow_mass_delete": True, **options}
    command.rollback(subject.settings, COLLECTION, **options)


def _sync(subject: Subject, **options: Any) -> None:
    from embedmigrate import command

    command.sync(subject.settings, allow_mass_delete=True, **options)


def _follow(subject: Subject, **options: Any) -> None:
    """Until SIGTERM."""
    from embedmigrate.command import syncing
    from embedmigrate.stopping import stop_on_signals

    stop, end = stop_on_signals(7)
    try:
        syncing.follow(subject.settings, stop=stop, allow_mass_delete=True, **options)
    except Stopped:
        pass
    finally:
        end()


def _contract(subject: Subject, **options: Any) -> None:
    """With a grace that is over."""
    from embedmigrate import command

    subject.let_grace_pass()
    command.contract(subject.settings, COLLECTION, **options)


def _capture_install(subject: Subject) -> None:
    from embedmigrate import command

    command.capture_install(subject.settings, COLLECTION)


def _capture_remove(subject: Subject) -> None:
    from embedmigrate import command

    command.capture_remove(subject.settings, COLLECTION)


def _change(subject: Subject, *, number: int, changes: int, seed: int = 0) -> None:
    with subject.writer(number, seed) as writer:
        writer.changes(changes)


def _keep_changing(subject: Subject, *, number: int, seed: int = 0, pause: float = 0.0) -> None:
    """Until ``Subject.over`` is there."""
    with subject.writer(number, seed) as writer:
        while not subject.over.exists():
            writer.change()
            if pause:
                time.sleep(pause)


def _search(subject: Subject) -> dict[str, Any]:
    from embedmigrate.testing.reading import search

    return search(subject)


def _switch(subject: Subject, *, switches: int) -> list[float]:
    """Cut over and roll back by turns, from ``first``; returns what each took, in seconds."""
    took = []
    for number in range(switches):
        began = time.monotonic()
        if number % 2 == 0:
            _upgrade(subject, again="the next round")
        else:
            _rollback(subject, reason="the next round")
        took.append(time.monotonic() - began)
    return took


_VERBS: Mapping[str, Callable[..., Any]] = {
    "upgrade": _upgrade,
    "rollback": _rollback,
    "sync": _sync,
    "follow": _follow,
    "contract": _contract,
    "capture install": _capture_install,
    "capture remove": _capture_remove,
    "change": _change,
    "keep changing": _keep_changing,
    "search": _search,
    "switch": _switch,
}
