"""The checkpoint engine: staged copy, background upload, one commit point, restore. `Checkpointer` is what the
training loop uses.

May import torch, numpy and the objects package. Importing it starts no thread and calls nothing of obstore: the
zygote does it.
"""

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
