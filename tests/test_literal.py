"""Which scripts spell identity out, and what is said of those that do not."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from embedmigrate import EmbeddingModel, Recipe
from embedmigrate.migration.literal import NotLiteral, find_not_literal
from embedmigrate.migration.rendering import render
from embedmigrate.models import IndexSpec

Look = Callable[[str], list[NotLiteral]]

DIGEST = "sha256:" + "0" * 64
HEAD = f"""\
from embedmigrate import EmbeddingModel, Recipe, op

revision, down_revision = "a1a1a1a1a1a1", None
branch_labels = depends_on = None

MODEL = EmbeddingModel(name="m", artifacts={{"weights": "{DIGEST}"}}, dimensions=8)

"""
UPGRADE = """\
def upgrade() -> None:
    op.reembed("articles", source=None, target=MODEL, recipe=Recipe(text=["title"]))
"""
DOWNGRADE = """
def downgrade() -> None:
    op.rollback("articles", to=None)
"""
SCRIPT = HEAD + UPGRADE + DOWNGRADE


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """What is found in a script of this text."""

    def look(text: str) -> list[NotLiteral]:
        ast.parse(text)
        path = tmp_path / "script.py"
        path.write_text(text, "utf-8")
        return find_not_literal(path)

    return look


def replaced(old: str, new: str, text: str = SCRIPT) -> str:
    assert old in text, old
    return text.replace(old, new, 1)


# -- literal ----------------------------------------------------------------------------------


def test_a_script_that_revision_writes_is_literal(look: Look) -> None:
    spec = IndexSpec(
        model=EmbeddingModel(
            name="m", artifacts={"weights": DIGEST}, dimensions=8, query_prompt='it\'s "so": '
        ),
        recipe=Recipe(text=("title", "text"), joiner="\n"),
        store_kind="faiss",
    )
    body = render("articles", f"old@{'0' * 32}", spec)
    text = f"""\
from embedmigrate import EmbeddingModel, Recipe, op
{body.constants}
def upgrade() -> None:
{body.upgrade}
def downgrade() -> None:
{body.downgrade}
"""
    assert look(text) == []


ALLOWED = {
    "a constant for a part": replaced("MODEL = ", "SIZE = 8\nMODEL = ").replace("=8)", "=SIZE)"),
    "constants of constants": replaced(
        "MODEL = ", 'TITLE = "title"\nFIELDS = (TITLE, "text")\nMODEL = '
    ).replace('["title"]', "FIELDS"),
    "a constant with a type": replaced("MODEL = ", "MODEL: EmbeddingModel = "),
    "two constants at once": replaced("MODEL = ", "A, B = 1, 8\nMODEL = ").replace("=8)", "=B)"),
    "a recipe of its own": replaced("MODEL = ", 'RECIPE = Recipe("title")\nMODEL = ').replace(
        'Recipe(text=["title"])', "RECIPE"
    ),
    "a model in the call": replaced(
        "target=MODEL", f'target=EmbeddingModel(name="m", artifacts={{"w": "{DIGEST}"}})'
    ),
    "a list that is used twice": replaced(
        "MODEL = ", 'FIELDS = ["title"]\nONE, TWO = Recipe(FIELDS), Recipe(FIELDS)\nMODEL = '
    ),
    "names of its own": SCRIPT.replace("import EmbeddingModel", "import EmbeddingModel as Model")
    .replace("= EmbeddingModel(", "= Model(")
    .replace("Recipe, op", "Recipe, op as embedding")
    .replace("    op.", "    embedding."),
    "types of the future": "from __future__ import annotations\nfrom typing import Any\n" + SCRIPT,
    "alembic's operations": """\
import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "a1a1a1a1a1a1"
STATES = ["new", "old"]
table = sa.table("notes", sa.column("state", sa.String()))

def upgrade() -> None:
    op.execute("UPDATE notes SET state = 'new'")
    op.add_column("notes", sa.Column("at", postgresql.TIMESTAMP(), server_default=sa.func.now()))
    with op.batch_alter_table("notes") as batch:
        batch.drop_column("gone")
    for state in STATES:
        op.execute(table.update().where(table.c.state == state).values(state=f"{state}er"))
    if op.get_context().dialect.name == "postgresql":
        return
    STATES.append("older")
""",
    "an embedding operation among alembic's": replaced(
        UPGRADE, "    ".join([UPGRADE, 'schema.execute(f"UPDATE t SET a = {1}")\n'])
    ).replace("from embedmigrate", "from alembic import op as schema\nfrom embedmigrate", 1),
}


@pytest.mark.parametrize("text", ALLOWED.values(), ids=ALLOWED)
def test_what_is_spelt_out_is_literal(look: Look, text: str) -> None:
    assert look(text) == []


# -- not literal ------------------------------------------------------------------------------

IMPORT = "a script imports what its identity must not depend on"
OUTSIDE = "a script reaches outside of itself"


def argument(name: str, callee: str) -> str:
    return f"argument {name} of {callee} is not literal"


REFUSED = {
    # imports
    "import os": (replaced("MODEL =", "import os\nMODEL ="), 6, IMPORT, "os"),
    "a setting": (
        replaced("MODEL =", "from embedmigrate.config import load_settings\nMODEL ="),
        *(6, IMPORT, "embedmigrate.config.load_settings"),
    ),
    "more of embedmigrate": (
        replaced("Recipe, op", "Recipe, op, Collection"),
        *(1, IMPORT, "embedmigrate.Collection"),
    ),
    "all of embedmigrate": (
        replaced("import EmbeddingModel, Recipe, op", "import *"),
        *(1, IMPORT, "embedmigrate.*"),
    ),
    "all of a package that is allowed": (
        "from sqlalchemy import *\n" + SCRIPT,
        *(1, IMPORT, "sqlalchemy.*"),
    ),
    "embedmigrate itself": ("import embedmigrate\n" + SCRIPT, 1, IMPORT, "embedmigrate"),
    "a neighbour": ("from .models import MINILM\n" + SCRIPT, 1, IMPORT, ".models.MINILM"),
    "an import in a function": (
        replaced("    op.reembed", "    import json\n    op.reembed"),
        *(9, IMPORT, "json"),
    ),
    # arguments
    "a call": (replaced("=8)", "=int(8))"), 6, argument("dimensions", "EmbeddingModel"), "int()"),
    "the environment of a module that is allowed": (
        replaced("=8)", "=alembic.util.os.environ)"),
        *(6, argument("dimensions", "EmbeddingModel"), "alembic.util.os.environ"),
    ),
    "an f-string": (
        replaced('name="m"', 'name=f"m{revision}"'),
        *(6, argument("name", "EmbeddingModel"), "an f-string with names"),
    ),
    "a sum": (
        replaced('name="m"', 'name="m" + "n"'),
        *(6, argument("name", "EmbeddingModel"), "something computed"),
    ),
    "a condition": (
        replaced("target=MODEL", "target=MODEL if revision else None"),
        *(9, argument("target", "op.reembed"), "an if"),
    ),
    "deep inside": (
        replaced(f'"{DIGEST}"', 'open("digest").read()'),
        *(6, argument("artifacts", "EmbeddingModel"), "a call of open().read()"),
    ),
    "a comprehension": (
        replaced('["title"]', '[it for it in ("title",)]'),
        *(9, argument("text", "Recipe"), "a comprehension"),
    ),
    "a part of a model": (
        replaced("target=MODEL", "target=MODEL.model_copy()"),
        *(9, argument("target", "op.reembed"), "a call of MODEL.model_copy()"),
    ),
    "an argument without a name": (
        replaced('op.rollback("articles"', "op.rollback(str()"),
        *(12, argument("1", "op.rollback"), "a call of str()"),
    ),
    "unpacked arguments": (
        replaced("dimensions=8", '**{"dimensions": 8}'),
        *(6, argument("**", "EmbeddingModel"), "arguments that are unpacked"),
    ),
    # names
    "a name that is bound twice": (
        replaced("def upgrade", "MODEL = None\ndef upgrade"),
        *(10, argument("target", "op.reembed"), "MODEL, which is bound in lines 6, 8"),
    ),
    "a name that a function binds again": (
        replaced("    op.reembed", "    global MODEL\n    MODEL = MODEL\n    op.reembed"),
        *(11, argument("target", "op.reembed"), "MODEL, which is bound in lines 6, 10"),
    ),
    "a name of a parameter": (
        replaced("def upgrade()", "def upgrade(MODEL=None)"),
        *(9, argument("target", "op.reembed"), "MODEL, which is bound in lines 6, 8"),
    ),
    "a name that is not bound at the top": (
        replaced("MODEL = ", "if True:\n    MODEL = "),
        *(10, argument("target", "op.reembed"), "in line 7"),
    ),
    "a name that is not bound": (
        replaced("target=MODEL", "target=OTHER"),
        *(9, argument("target", "op.reembed"), "OTHER, which the script does not bind"),
    ),
    "a name of something that is not literal": (
        replaced("MODEL = EmbeddingModel(", "MODEL = dict("),
        *(9, argument("target", "op.reembed"), "MODEL, which is a call of dict() in line 6"),
    ),
    "a name of itself": (
        replaced("MODEL = ", "SIZE = SIZE\nMODEL = ").replace("=8)", "=SIZE)"),
        *(7, argument("dimensions", "EmbeddingModel"), "SIZE, which is SIZE, which is bound"),
    ),
    "a list that is changed": (
        replaced("MODEL = ", 'FIELDS = ["title"]\nFIELDS.append("text")\nMODEL = ').replace(
            '["title"])', "FIELDS)"
        ),
        *(7, "FIELDS is part of an identity and is used again", "FIELDS.append"),
    ),
    "a dictionary that is changed": (
        replaced("MODEL = ", f'FILES = {{}}\nFILES["weights"] = "{DIGEST}"\nMODEL = ').replace(
            f'{{"weights": "{DIGEST}"}}, d', "FILES, d"
        ),
        *(7, "FILES is part of an identity and is used again", "FILES[…]"),
    ),
    # the names of embedmigrate
    "a model that is made otherwise": (
        replaced("MODEL = EmbeddingModel(", "MODEL = EmbeddingModel.model_construct("),
        *(6, "EmbeddingModel is used otherwise than by a call", "EmbeddingModel.model_construct"),
    ),
    "an operation under another name": (
        replaced("def upgrade", "move = op.reembed\ndef upgrade"),
        *(8, "op is used otherwise than by a call", "assign"),
    ),
    "operations that are passed on": (
        replaced("def upgrade", "moves = [op]\ndef upgrade"),
        *(8, "op is used otherwise than by a call", "assign"),
    ),
    "a class that is replaced": (
        replaced("MODEL = ", "EmbeddingModel = dict\nMODEL = "),
        *(6, "EmbeddingModel is bound more than once", "lines 1, 6"),
    ),
    "two upgrades": (
        SCRIPT + "\nupgrade = downgrade\n",
        *(14, "upgrade is bound more than once", "lines 8, 14"),
    ),
    # what reaches outside
    "a look at a file": (replaced("def upgrade", 'open("x")\ndef upgrade'), 8, OUTSIDE, "open"),
    "an import by a function": (
        replaced("def upgrade", '__import__("os")\ndef upgrade'),
        *(8, OUTSIDE, "__import__"),
    ),
    "an environment that came along": (
        "import sqlalchemy\n"
        + replaced("def upgrade", "X = sqlalchemy.util.os.environ\ndef upgrade"),
        *(9, OUTSIDE, "sqlalchemy.util.os.environ"),
    ),
    # operations that something decides about
    **{
        f"an operation after {decider.partition(':')[0]}": (
            replaced("    op.reembed", f"    {decider}\n    op.reembed"),
            *(line, "op.reembed is not done in every case", f"{kind} in line 9"),
        )
        for decider, kind, line in (
            ("if revision: return", "an if", 10),
            ("while revision: pass", "while", 10),
            ("raise ValueError", "raise", 10),
            ("assert revision", "assert", 10),
            ("return", "return", 10),
        )
    },
    "an operation in an if": (
        replaced("    op.reembed", "    if revision: op.reembed"),
        *(9, "op.reembed is not done in every case", "an if"),
    ),
    "an operation in a loop": (
        replaced("    op.reembed", "    for _ in revision: op.reembed"),
        *(9, "op.reembed is not done in every case", "for"),
    ),
    "an operation in an expression": (
        replaced("    op.reembed", "    revision and op.reembed"),
        *(9, "op.reembed is not done in every case", "something computed"),
    ),
    "an operation in another function": (
        SCRIPT.replace("def upgrade", "def move") + "\ndef upgrade() -> None:\n    move()\n",
        *(9, "op.reembed is not done in every case", "the function move()"),
    ),
    "an operation in one of two upgrades": (
        HEAD + "if revision:\n    " + UPGRADE.replace("\n", "\n    ") + "\n" + DOWNGRADE,
        *(10, "op.reembed is not done in every case", "the function upgrade()"),
    ),
    "an operation at the top": (
        replaced("def upgrade() -> None:\n    op", "op"),
        *(8, "op.reembed is not done in every case", "the top of the script"),
    ),
    "an operation behind a decorator": (
        replaced("def upgrade", "@property\ndef upgrade"),
        *(10, "op.reembed is not done in every case", "a decorator of upgrade()"),
    ),
}


@pytest.mark.parametrize(("text", "line", "message", "found"), REFUSED.values(), ids=REFUSED)
def test_what_only_running_would_tell_is_not_literal(
    look: Look, text: str, line: int, message: str, found: str
) -> None:
    told = look(text)

    assert any(
        (it.line, it.message) == (line, message) and found in it.found and it.expected
        for it in told
    ), told


def test_no_value_of_the_script_is_told(look: Look) -> None:
    """It may be a secret that somebody wrote there."""
    told = look(replaced('name="m"', 'name=get("hunter2", key="hunter2")["hunter2"]'))

    assert told and "hunter2" not in repr(told)


def test_nothing_is_executed(look: Look) -> None:
    assert look(SCRIPT + "\nraise SystemExit\n") == []
