"""Reads a status that a newer operator may have written.

May import pydantic and this package only. What is not understood is left out; nothing here ever refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from .status import TrainingJobStatus


def read_status(given: Mapping[str, Any]) -> TrainingJobStatus:
    """All of a status this program understands, without the fields and items of lists whose value it does not know."""
    rest = {key: value for key, value in given.items() if value is not None}
    while True:
        try:
            return TrainingJobStatus.model_validate(rest)
        except ValidationError as error:
            wrong: dict[str, set[Any]] = {}
            for one in error.errors(include_url=False):
                name, *place = one["loc"]
                wrong.setdefault(str(name), set()).add(place[0] if place else None)
        for name, places in wrong.items():
            value = rest.pop(name, None)
            if isinstance(value, list) and all(isinstance(place, int) for place in places):
                rest[name] = [item for number, item in enumerate(value) if number not in places]
        if not any(name in given for name in wrong):
            return TrainingJobStatus()
