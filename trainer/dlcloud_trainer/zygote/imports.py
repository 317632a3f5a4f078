"""What the zygote imports, and the care that importing starts no thread.

May import anything a rank needs; calls nothing of it.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from dataclasses import dataclass

from .kernel import thread_count

# OpenBLAS starts its threads when numpy is imported. The variable is put back for the ranks; torch has its own setting.
_WHILE_IMPORTING = {"OPENBLAS_NUM_THREADS": "1"}
# What torch itself imports late: at the first optimiser (1 s of every rank's start), at the first wrapped model.
_FOR_SCRIPTS = ("torch.distributed", "torch.nn.parallel.distributed", "torch._dynamo")


@dataclass(frozen=True)
class Loaded:
    """What a forked rank can count on. `warm` False: this process is no good for Python scripts, start them cold."""

    workload: str
    warm: bool


def load(workload: str) -> Loaded:
    """Import torch and the workload's modules; for a script (empty name) torch if the image has it.

    Raises what the imports raise, for a workload; a script meets its broken torch itself.
    """
    before = {name: os.environ.get(name) for name in _WHILE_IMPORTING}
    os.environ.update({name: value for name, value in _WHILE_IMPORTING.items() if before[name] is None})
    try:
        warm = _load_workload(workload) if workload else _load_torch()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
    if thread_count() != 1:
        sys.stderr.write(f"{thread_count()} threads after the imports, where one is safe: forks may hang\n")
    return Loaded(workload, warm)


def module_name(workload: str) -> str:
    """`cnn` -> `dlcloud_trainer.workloads.cnn`; dashes become underscores."""
    return "dlcloud_trainer.workloads." + workload.replace("-", "_")


def _load_workload(workload: str) -> bool:
    for name in ("torch", "dlcloud_trainer.rank", module_name(workload)):
        importlib.import_module(name)
    return True


def _load_torch() -> bool:
    try:
        for name in ("torch", *_FOR_SCRIPTS):
            importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == "torch":
            return True
        traceback.print_exc()
        return False
    except Exception:
        traceback.print_exc()
        return False
    return True
