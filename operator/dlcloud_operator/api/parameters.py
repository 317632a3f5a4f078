"""The parameters of the built-in workloads: which there are, what they may be, and what they are when not given.

May import this package only. The trainer's models own them; `parameters.json` is written from those by `make contract`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from .problems import Problem, path_text

CONTRACT_FILE = Path(__file__).with_name("parameters.json")
_INT64 = 2**63
_TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
}


@dataclass(frozen=True)
class Parameter:
    """One setting of a workload. `type` is integer, number, string or boolean; limits are None where there are none."""

    name: str
    type: str
    default: Any
    description: str
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: float | None = None
    exclusive_maximum: float | None = None
    enum: tuple[Any, ...] = ()

    @property
    def allowed(self) -> str:
        """What may be given, in words."""
        if self.enum:
            return "one of " + ", ".join(map(_shown, self.enum))
        if self.minimum is not None and self.maximum is not None:
            return f"{_TYPES[self.type]} from {_shown(self.minimum)} to {_shown(self.maximum)}"
        bounds = (
            ("at least", self.minimum),
            ("more than", self.exclusive_minimum),
            ("at most", self.maximum),
            ("less than", self.exclusive_maximum),
        )
        limits = [f"{word} {_shown(bound)}" for word, bound in bounds if bound is not None]
        return " ".join([_TYPES[self.type], *([" and ".join(limits)] if limits else [])])


@dataclass(frozen=True)
class Workload:
    """A built-in workload; `data` lists what its data.uri may begin with, `presets` what each preset sets, `refused`
    parameters of other workloads with the reason why it has none of the kind."""

    name: str
    description: str
    data: tuple[str, ...]
    parameters: Mapping[str, Parameter]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


@cache
def load_contract(file: Path = CONTRACT_FILE) -> Mapping[str, Workload]:
    """The workloads by name. Raises ValueError when the file is not a contract of version 1."""
    contract = json.loads(file.read_text(encoding="utf-8"))
    if contract.get("version") != 1:
        raise ValueError(f"{file.name}: version {contract.get('version')!r} is unknown; run make contract")
    workloads = {}
    for name, entry in contract["workloads"].items():
        parameters = {
            key: Parameter(
                name=key,
                type=one["type"],
                default=one.get("default"),
                description=one.get("description", ""),
                minimum=one.get("minimum"),
                maximum=one.get("maximum"),
                exclusive_minimum=one.get("exclusiveMinimum"),
                exclusive_maximum=one.get("exclusiveMaximum"),
                enum=tuple(one.get("enum", ())),
            )
            for key, one in entry["parameters"].items()
        }
        workloads[name] = Workload(
            name=name,
            description=entry.get("description", ""),
            data=tuple(entry.get("data", ())),
            parameters=parameters,
            presets=entry.get("presets", {}),
            refused=entry.get("refused", {}),
        )
    return workloads


def nearest(word: str, choices: Mapping[str, Any] | tuple[str, ...] | list[str]) -> str:
    """` (did you mean ...?)` with the choice most like the word, or nothing."""
    by_lower = {choice.lower().replace("_", ""): choice for choice in choices}
    found = get_close_matches(word.lower().replace("_", ""), by_lower, n=1, cutoff=0.6)
    return f" (did you mean {by_lower[found[0]]}?)" if found else ""


def check_parameters(workload: str, given: Mapping[str, Any]) -> tuple[Problem, ...]:
    """What is wrong with parameters given to a workload: unknown, of another type, out of range, not in the list."""
    contract = load_contract()
    if workload not in contract:
        text = (
            f"{workload!r} is not a built-in workload{nearest(workload, contract)}; give one of {', '.join(contract)}"
        )
        return (Problem("spec.workload", text),)
    known, refused = contract[workload].parameters, contract[workload].refused
    problems = []
    for name, value in given.items():
        path = path_text(("spec", "parameters", name))
        if name in refused:
            problems.append(Problem(path, f"does not apply to {workload}: {refused[name]}; leave it out"))
        elif name not in known:
            text = f"is not a parameter of {workload}{nearest(name, known)}; it has {', '.join(sorted(known))}"
            problems.append(Problem(path, text))
        elif fault := _fault(known[name], value):
            problems.append(Problem(path, fault))
    return tuple(problems)


def check_data(workload: str, uri: str) -> tuple[Problem, ...]:
    """Whether a known workload reads data of this kind of address."""
    entry = load_contract().get(workload)
    if entry is None or not entry.data or any(uri.startswith(start) for start in entry.data):
        return ()
    text = f"{uri!r} is nothing {workload} can read; give an address that begins with {' or '.join(entry.data)}"
    return (Problem("spec.data.uri", text),)


def fill_defaults(workload: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a workload: given, else of its preset, else by default; `given` has passed `check_parameters`.
    Raises KeyError."""
    entry = load_contract()[workload]
    known = entry.parameters
    filled = {name: parameter.default for name, parameter in known.items()}
    for name, value in {**entry.presets.get(given.get("preset", ""), {}), **given}.items():
        # 1e3 is a float in YAML, and an integer to whoever wrote it.
        filled[name] = int(value) if known[name].type == "integer" and value is not None else value
    return filled


def _fault(parameter: Parameter, value: Any) -> str:
    if value is None:
        return "" if parameter.default is None else f"is empty; give {parameter.allowed}, or leave the line out"
    if not _has_type(parameter.type, value):
        unquoted = ", without quotes" if isinstance(value, str) else ""
        return f"{_shown(value)} is {_kind(value)}; give {parameter.allowed}{unquoted}"
    if parameter.enum and value not in parameter.enum:
        like = nearest(value, [str(choice) for choice in parameter.enum]) if isinstance(value, str) else ""
        return f"{_shown(value)} is not allowed{like}; give {parameter.allowed}"
    return f"{_shown(value)} is out of range; give {parameter.allowed}" if _out_of_range(parameter, value) else ""


def _has_type(kind: str, value: Any) -> bool:
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "string":
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if not math.isfinite(value) if isinstance(value, float) else not -_INT64 <= value < _INT64:
        return False
    return kind == "number" or float(value).is_integer()


def _out_of_range(parameter: Parameter, value: Any) -> bool:
    return (
        (parameter.minimum is not None and value < parameter.minimum)
        or (parameter.maximum is not None and value > parameter.maximum)
        or (parameter.exclusive_minimum is not None and value <= parameter.exclusive_minimum)
        or (parameter.exclusive_maximum is not None and value >= parameter.exclusive_maximum)
    )


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, str):
        return "text"
    if isinstance(value, int):
        return "a number" if -_INT64 <= value < _INT64 else "more than 64 bits hold"
    if isinstance(value, float):
        return "a number with a fraction" if math.isfinite(value) else "not a finite number"
    return "a list" if isinstance(value, list) else "a mapping"


def _shown(value: Any) -> str:
    """A value as in YAML, shortened."""
    if isinstance(value, str):
        return repr(value if len(value) <= 80 else value[:77] + "...")
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value) if not isinstance(value, int) or abs(value) < 10**30 else "a number of more than 30 digits"
    return text if len(text) <= 80 else text[:77] + "..."
