"""Is the identity in a script literal? Read from its syntax tree; nothing of it is executed.

A script that takes a model from the environment, a setting or a computation means one thing on the
machine where it was reviewed and another where it is applied. This rule is for people of good
will: it finds what makes a script depend on its surroundings by habit, and is no sandbox.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from embedmigrate.errors import ScriptError
from embedmigrate.migration.syntax import (
    assignments,
    bindings,
    dotted,
    is_changeable,
    is_plain,
    kind_of,
    parts_of,
)

_PACKAGES = ("__future__", "alembic", "sqlalchemy", "typing")
_OWN = "embedmigrate"
_CONSTRUCTED = {"Chunker", "EmbeddingModel", "Recipe"}
_OFFERED = {*_CONSTRUCTED, "op"}
_REACHES_OUT = {
    *("__import__", "breakpoint", "compile", "delattr", "eval", "exec", "getattr", "globals"),
    *("input", "locals", "open", "setattr", "vars"),
}
_ENVIRONMENT = {"environ", "environb", "getenv"}
_STEPS = ("upgrade", "downgrade")
_DECIDES = (
    *(ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.TryStar, ast.Match),
    *(ast.Assert, ast.Raise, ast.Return),
)
_LITERAL = "a literal, or a name that is bound once, at the top of the script, to a literal"


@dataclass(frozen=True, order=True)
class NotLiteral:
    """Something in a script that only running it would tell."""

    line: int
    message: str
    found: str
    expected: str


def find_not_literal(path: Path) -> list[NotLiteral]:
    """Everything in a script that identity must not depend on, in order of line.

    Empty for a file that is not Python: loading the script says what is wrong with it.
    ``ScriptError`` when it cannot be read.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []
    except OSError as error:
        raise ScriptError(
            f"script {path} cannot be read", found=error.strerror, next_step="restore it"
        ) from error
    script = _Script(tree)
    return sorted(
        {
            *script.imports(),
            *script.reaching_out(),
            *script.misused(),
            *script.arguments(),
            *script.decided(),
            *script.changeable(),
        }
    )


class _Script:
    """One script: what its names stand for, and where identity is stated."""

    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        self.nodes = list(ast.walk(tree))
        self.parents = {
            child: parent for parent in self.nodes for child in ast.iter_child_nodes(parent)
        }
        self.bound: dict[str, list[int]] = defaultdict(list)
        for node in self.nodes:
            for name, line in bindings(node):
                self.bound[name].append(line)
        self.values = dict(assignments(tree))
        self.own = {
            alias.asname or alias.name: alias.name
            for node in self.nodes
            if isinstance(node, ast.ImportFrom) and node.module == _OWN and not node.level
            for alias in node.names
        }
        self.identity_calls = [
            (callee, node)
            for node in self.nodes
            if isinstance(node, ast.Call) and (callee := self._identity(node))
        ]
        self.read_by_identity: set[ast.Name] = set()

    def imports(self) -> Iterator[NotLiteral]:
        for node in self.nodes:
            if isinstance(node, ast.Import):
                named = [(alias.name, alias.name.partition(".")[0]) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                named = [
                    (f"{module}.{alias.name}", module.partition(".")[0]) for alias in node.names
                ]
            else:
                continue
            for name, package in named:
                offered = name.removeprefix(f"{_OWN}.") in _OFFERED
                if name.endswith(".*") or not (offered or package in _PACKAGES):
                    yield NotLiteral(
                        node.lineno,
                        "a script imports what its identity must not depend on",
                        name,
                        f"from {_OWN} import {', '.join(sorted(_OFFERED))}; "
                        f"or modules of {', '.join(_PACKAGES)}",
                    )

    def reaching_out(self) -> Iterator[NotLiteral]:
        for node in self.nodes:
            builtin = isinstance(node, ast.Name) and node.id in _REACHES_OUT - self.bound.keys()
            environment = isinstance(node, ast.Attribute) and node.attr in _ENVIRONMENT
            if isinstance(node, ast.expr) and (builtin or environment):
                yield NotLiteral(
                    node.lineno,
                    "a script reaches outside of itself",
                    dotted(node),
                    "nothing that differs from one machine or one day to another",
                )

    def misused(self) -> Iterator[NotLiteral]:
        """Names of embedmigrate that are rebound, passed on or looked into, and not just called."""
        annotations = {
            part
            for node in self.nodes
            for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None))
            if annotation is not None
            for part in ast.walk(annotation)
        }
        for name, origin in self.own.items():
            if len(self.bound[name]) > 1:
                yield self._not_once(name, self.bound[name][-1])
            for node in self.nodes:
                if not isinstance(node, ast.Name) or node.id != name or node in annotations:
                    continue
                used: ast.AST = self.parents[node] if origin == "op" else node
                caller = self.parents[used]
                if isinstance(node.ctx, ast.Load) and not (
                    isinstance(caller, ast.Call) and caller.func is used
                ):
                    yield NotLiteral(
                        node.lineno,
                        f"{name} is used otherwise than by a call",
                        kind_of(caller),
                        f"{name}.reembed(…)" if origin == "op" else f"{name}(…)",
                    )
        for name in _STEPS:
            if len(self.bound[name]) > 1:
                yield self._not_once(name, self.bound[name][-1])

    def arguments(self) -> Iterator[NotLiteral]:
        for callee, node in self.identity_calls:
            arguments = [(str(place), value) for place, value in enumerate(node.args, start=1)]
            arguments += [(keyword.arg or "**", keyword.value) for keyword in node.keywords]
            for name, value in arguments:
                unpacked = [(value.lineno, "arguments that are unpacked")]
                for line, found in unpacked if name == "**" else self._offences(value):
                    yield NotLiteral(
                        line, f"argument {name} of {callee} is not literal", found, _LITERAL
                    )

    def decided(self) -> Iterator[NotLiteral]:
        """Embedding operations that something decides about."""
        for callee, node in self.identity_calls:
            if callee not in _CONSTRUCTED and (found := self._decider(node)):
                yield NotLiteral(
                    node.lineno,
                    f"{callee} is not done in every case",
                    found,
                    "a statement of upgrade() or downgrade() that nothing decides about",
                )

    def _decider(self, operation: ast.AST) -> str | None:
        """What decides whether ``operation`` is done, if anything does."""
        statement = self.parents[operation]
        if not isinstance(statement, ast.Expr):
            return kind_of(statement)
        function = self.parents[statement]
        if (
            not isinstance(function, ast.FunctionDef)
            or function.name not in _STEPS
            or function not in self.tree.body
        ):
            return kind_of(function)
        if function.decorator_list:
            return f"a decorator of {function.name}()"
        deciding = (node for node in ast.walk(function) if isinstance(node, _DECIDES))
        first = next(deciding, None)
        return None if first is None else f"{kind_of(first)} in line {first.lineno}"

    def changeable(self) -> Iterator[NotLiteral]:
        """Lists and dictionaries that identity reads, used again where they may be changed.

        Asks for ``arguments`` to have been gone through.
        """
        read = {node.id for node in self.read_by_identity}
        for node in self.nodes:
            if (
                isinstance(node, ast.Name)
                and isinstance(node.ctx, ast.Load)
                and node.id in read
                and node not in self.read_by_identity
                and is_changeable(self.values.get(node.id))
            ):
                yield NotLiteral(
                    node.lineno,
                    f"{node.id} is part of an identity and is used again",
                    kind_of(self.parents[node]),
                    "a name of its own for each use",
                )

    def _identity(self, node: ast.AST) -> str | None:
        """``Recipe``, another class, or ``op.reembed``, when ``node`` is a call of it."""
        if not isinstance(node, ast.Call):
            return None
        match node.func:
            case ast.Name(id=name) if self.own.get(name) in _CONSTRUCTED:
                return self.own[name]
            case ast.Attribute(value=ast.Name(id=name), attr=verb) if self.own.get(name) == "op":
                return f"op.{verb}"
        return None

    def _offences(
        self, node: ast.expr, seen: frozenset[str] = frozenset()
    ) -> Iterator[tuple[int, str]]:
        """Line and description of every part of an expression that is not literal."""
        if (parts := parts_of(node)) is not None:
            for part in parts:
                yield from self._offences(part, seen)
        elif isinstance(node, ast.Name):
            self.read_by_identity.add(node)
            if problem := self._name(node.id, seen):
                yield node.lineno, f"{node.id}, {problem}"
        elif not is_plain(node) and self._identity(node) not in _CONSTRUCTED:
            yield node.lineno, kind_of(node)  # arguments of what is constructed are looked at there

    def _name(self, name: str, seen: frozenset[str]) -> str | None:
        """Why a name does not stand for a literal, if it does not."""
        lines = self.bound.get(name)
        if not lines:
            return "which the script does not bind"
        if name not in self.values:
            return (
                f"which is not bound to a literal at the top of the script, but in line {lines[0]}"
            )
        if len(lines) > 1 or name in seen:
            return f"which is bound in lines {', '.join(map(str, lines))}"
        for line, found in self._offences(self.values[name], seen | {name}):
            return f"which is {found} in line {line}"
        return None

    def _not_once(self, name: str, line: int) -> NotLiteral:
        lines = ", ".join(map(str, self.bound[name]))
        return NotLiteral(line, f"{name} is bound more than once", f"lines {lines}", "one meaning")
