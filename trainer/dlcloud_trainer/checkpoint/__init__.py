"""The checkpoint engine: staged copy, background upload, one commit point, restore. `Checkpointer` is what the
training loop uses.

May import torch, numpy and the objects package. Importing it starts no thread and calls nothing of obstore: the
zygote does it. The names below are imported with their first use: tools that need only layout and head get by without
torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpointer import Checkpointer
    from .settings import CheckpointSettings, Committed, Restored
    from .state import Stateful, collect, restore_into

__all__ = [
    "CheckpointSettings",
    "Checkpointer",
    "Committed",
    "Restored",
    "Stateful",
    "collect",
    "restore_into",
]
_HOMES = {
    "Checkpointer": "checkpointer",
    "CheckpointSettings": "settings",
    "Committed": "settings",
    "Restored": "settings",
    "Stateful": "state",
    "collect": "state",
    "restore_into": "state",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
