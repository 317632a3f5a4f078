"""`dlcloud checkpoints ls|verify|get|pin|rm`: options and help.

May import typer; everything heavy is imported inside.
"""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
