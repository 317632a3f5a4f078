"""The built-in workloads, one file each. A file is found by its name; there is no list to keep.

May import the package's own modules. Importing this package imports no workload.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import cast

from ..errors import InvalidInput
from ..workload import Workload


def workload_names() -> list[str]:
    """Names as a job gives them, sorted."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def find_workload(name: str) -> Workload:
    """The workload's module; raises `InvalidInput` with the names there are."""
    names = workload_names()
    if name not in names:
        raise InvalidInput(f"workload: {name!r} is not built in; there is {', '.join(names)}")
    return cast(Workload, importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))
