"""Shell completion: the script a shell reads, and the answers it then asks for. May import typer, and nothing slow."""

from __future__ import annotations

import os

VARIABLE = "_DLCLOUD_COMPLETE"  # the shell asks by calling the program with it


def asked() -> bool:
    """Whether this call is a shell's question and not a user's command."""
    return VARIABLE in os.environ


def prepare() -> None:
    """Teach the command line to answer."""
    from typer._completion_classes import completion_init

    completion_init()


def script(shell: str) -> str:
    """What the shell (bash, zsh, fish) has to read to complete `dlcloud`."""
    from typer._completion_shared import get_completion_script

    return get_completion_script(prog_name="dlcloud", complete_var=VARIABLE, shell=shell)
