"""Parts for testing adapters, and projects that use embedmigrate; nothing for production."""

from embedmigrate.testing.cases import Case, NotReached
from embedmigrate.testing.checker import Findings, check
from embedmigrate.testing.harness import Harness
from embedmigrate.testing.points import POINTS, CrashPoint
from embedmigrate.testing.subject import MODELS

__all__ = ["MODELS", "POINTS", "Case", "CrashPoint", "Findings", "Harness", "NotReached", "check"]
