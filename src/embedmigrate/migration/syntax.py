"""Reading syntax trees: what a script binds, to what, and what a node is called among people."""

from __future__ import annotations

import ast
from collections.abc import Iterator


def bindings(node: ast.AST) -> Iterator[tuple[str, int]]:
    """The names that a node itself binds, in whatever scope, with their line."""
    match node:
        case ast.Name(ctx=ast.Store() | ast.Del()):
            yield node.id, node.lineno
        case ast.Import() | ast.ImportFrom():
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0], node.lineno
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name, node.lineno
        case ast.arg():
            yield node.arg, node.lineno
        case (
            ast.ExceptHandler(name=str(name), lineno=line)
            | ast.MatchAs(name=str(name), lineno=line)
            | ast.MatchStar(name=str(name), lineno=line)
            | ast.MatchMapping(rest=str(name), lineno=line)
        ):
            yield name, line


def assignments(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Names that are bound by plain statements at the top of a script, with their values."""
    for statement in tree.body:
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets: list[ast.expr] = [statement.target]
        elif isinstance(statement, ast.Assign):
            targets = statement.targets
        else:
            continue
        assert statement.value is not None
        for target in targets:
            match target, statement.value:
                case ast.Name(id=name), value:
                    yield name, value
                case ast.Tuple(elts=names), ast.Tuple(elts=values) if len(names) == len(values):
                    for element, value in zip(names, values, strict=True):
                        if isinstance(element, ast.Name):
                            yield element.id, value


def is_changeable(value: ast.expr | None) -> bool:
    """Whether a literal can be changed after it was made: it holds a list, set or dictionary."""
    if value is None or isinstance(value, ast.Call):
        return False
    return any(isinstance(part, ast.List | ast.Dict | ast.Set) for part in ast.walk(value))


def is_plain(node: ast.expr) -> bool:
    """Whether an expression without parts is a literal: a constant, a signed number, a string."""
    match node:
        case ast.Constant():
            return True
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.Constant()):
            return True
        case ast.JoinedStr(values=values):
            return all(isinstance(value, ast.Constant) for value in values)
    return False


def parts_of(node: ast.expr) -> list[ast.expr] | None:
    """The items of a tuple, list, set or dictionary; None for everything else."""
    match node:
        case ast.Tuple() | ast.List() | ast.Set():
            return node.elts
        case ast.Dict():
            return [*filter(None, node.keys), *node.values]
    return None


_KINDS: dict[type[ast.AST], str] = {
    ast.JoinedStr: "an f-string with names",
    **dict.fromkeys((ast.BinOp, ast.BoolOp, ast.UnaryOp, ast.Compare), "something computed"),
    **dict.fromkeys((ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp), "a comprehension"),
    ast.Module: "the top of the script",
    **dict.fromkeys((ast.If, ast.IfExp), "an if"),
}


def kind_of(node: ast.AST) -> str:
    """What a node is, for people; names of the script only, never a value."""
    match node:
        case ast.Call():
            return f"a call of {dotted(node.func)}()"
        case ast.Name() | ast.Attribute() | ast.Subscript():
            return dotted(node)
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return f"the function {node.name}()"
    return _KINDS.get(type(node), type(node).__name__.lower())


def dotted(node: ast.AST) -> str:
    """``os.environ`` of a chain of attributes; ``…`` for what has no name."""
    match node:
        case ast.Name():
            return node.id
        case ast.Attribute():
            return f"{dotted(node.value)}.{node.attr}"
        case ast.Subscript():
            return f"{dotted(node.value)}[…]"
        case ast.Call():
            return f"{dotted(node.func)}()"
        case _:
            return "…"
