"""One plain function a command: the Python API for schedulers and scripts.

Every function takes the ``Settings`` first (see ``embedmigrate.config.load_settings``), returns
data, prints nothing but progress through the reporter it is given, and raises the errors of
``embedmigrate.errors``, whose ``exit_code`` the command line returns.
"""

from embedmigrate.command.adopting import adopt
from embedmigrate.command.attributing import attribute
from embedmigrate.command.auditing import audit
from embedmigrate.command.back import downgrade, rollback
from embedmigrate.command.capturing import capture_install, capture_remove, capture_sql
from embedmigrate.command.checking import check
from embedmigrate.command.contracting import contract
from embedmigrate.command.controlling import cancel, pause, resume
from embedmigrate.command.doctor import doctor
from embedmigrate.command.forward import cutover, upgrade
from embedmigrate.command.pinning import drift, pin
from embedmigrate.command.policy import check_policy
from embedmigrate.command.probing import check_serving
from embedmigrate.command.reading import plan, search, status, verify
from embedmigrate.command.rebuilding import rebuild_catalog
from embedmigrate.command.scripts import (
    branches,
    current,
    downgrade_sql,
    edit,
    ensure_version,
    heads,
    history,
    merge,
    revision,
    show,
    stamp,
    upgrade_sql,
)
from embedmigrate.command.setup import first_steps, init, list_templates
from embedmigrate.command.syncing import follow, sync
from embedmigrate.command.vendoring import restore

__all__ = [
    "adopt",
    "attribute",
    "audit",
    "branches",
    "cancel",
    "capture_install",
    "capture_remove",
    "capture_sql",
    "check",
    "check_policy",
    "check_serving",
    "contract",
    "current",
    "cutover",
    "doctor",
    "downgrade",
    "downgrade_sql",
    "drift",
    "edit",
    "ensure_version",
    "first_steps",
    "follow",
    "heads",
    "history",
    "init",
    "list_templates",
    "merge",
    "pause",
    "pin",
    "plan",
    "rebuild_catalog",
    "restore",
    "resume",
    "revision",
    "rollback",
    "search",
    "show",
    "stamp",
    "status",
    "sync",
    "upgrade",
    "upgrade_sql",
    "verify",
]
