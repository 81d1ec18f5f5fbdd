"""``python -m embedmigrate``."""

from embedmigrate.cli import main

main()
