"""What runs in a pod: agent, zygote, ranks, checkpoints, workloads; for programs of your own: Checkpointer, progress.

Imports nothing of the operator. Importing this package costs nothing: the two names are imported with their first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .user_script import Checkpointer, progress

__all__ = ["Checkpointer", "progress"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(".user_script", __name__), name)
