"""The ``[hooks]`` table, and that of a collection."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

if TYPE_CHECKING:
    from embedmigrate.engine.occasion import EventName

_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_EXPECTED = 'a list of hooks, each ["program", "argument"] or "package.module:function"'

Hook = tuple[str, ...] | str
"""A command as words, or a Python function by name."""


def _hooks(value: Any) -> tuple[Hook, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(_EXPECTED)
    return tuple(_hook(hook) for hook in value)


def _hook(value: Any) -> Hook:
    if isinstance(value, str) and _FUNCTION.fullmatch(value):
        return value
    if (
        isinstance(value, list | tuple)
        and value
        and value[0]
        and all(isinstance(word, str) and "\0" not in word for word in value)
    ):
        return tuple(value)
    raise ValueError(_EXPECTED)


_Hooks = Annotated[tuple[Hook, ...], BeforeValidator(_hooks), Field(repr=False)]
"""Never shown: a word may hold what came from the environment."""


class HooksConfig(BaseModel):
    """Hooks by event. What a collection names takes the place of what is named for all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    timeout: float = Field(default=30.0, gt=0, le=3600)
    """Seconds after which a hook is killed, and has failed."""
    on_start: _Hooks = ()
    on_ready: _Hooks = ()
    before_cutover: _Hooks = ()
    after_cutover: _Hooks = ()
    on_rollback: _Hooks = ()
    on_drift: _Hooks = ()
    on_failure: _Hooks = ()

    def of(self, event: EventName) -> tuple[Hook, ...]:
        hooks: tuple[Hook, ...] = getattr(self, event)
        return hooks

    def over(self, general: HooksConfig) -> HooksConfig:
        """These hooks, and those of ``general`` where these say nothing."""
        return general.model_copy(update={key: getattr(self, key) for key in self.model_fields_set})


def hooks_for(
    general: HooksConfig, collections: Mapping[str, HooksConfig | None], collection: str | None
) -> HooksConfig:
    """The hooks of a collection; None is what concerns no single one."""
    own = None if collection is None else collections.get(collection)
    return general if own is None else own.over(general)
