"""The parts of a training state (models, optimisers, schedules) to named tensors and JSON, and back.

May import torch. Restoring is strict: what does not fit is named before anything is changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from .errors import StateMismatch
from .plain import decode, encode

ADVICE = "resume with the program and parameters that wrote the checkpoint, or begin a new job without resumeFrom"


class Stateful(Protocol):
    """What torch's modules, optimisers and schedulers have in common."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any, /) -> Any: ...


def collect(parts: Mapping[str, Stateful]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of all parts (not copied, on their devices) by flat name, and the rest as JSON; raises
    `StateNotPlain`."""
    tensors: dict[str, Tensor] = {}
    return tensors, {name: encode(part.state_dict(), name, tensors) for name, part in parts.items()}


def restore_into(parts: Mapping[str, Stateful], tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Load what `collect` gave; the tensors may be reused afterwards. Raises `StateMismatch` before any part was
    changed, unless a
    part's own load_state_dict refuses."""
    _same_names("parts", set(state), set(parts))
    decoded: dict[str, Any] = {}
    for name, part in parts.items():
        # A module copies into its own parameters; others may keep what they are given.
        own = tensors if isinstance(part, torch.nn.Module) else _cloned(tensors, state[name])
        decoded[name] = decode(state[name], own)
        _check(name, part, decoded[name])
    for name, part in parts.items():
        try:
            part.load_state_dict(decoded[name])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise StateMismatch(f"{name}: {str(error).strip().splitlines()[0]}; {ADVICE}") from error


def _check(name: str, part: Stateful, saved: Any) -> None:
    if isinstance(part, torch.optim.Optimizer):
        _check_optimizer(name, part, saved)
        return
    here, there = _leaves(part.state_dict(), name), _leaves(saved, name)
    if not here and not isinstance(part, torch.nn.Module):
        return  # makes its tensors only when it is used
    _same_names("tensors", set(there), set(here))
    for path, tensor in here.items():
        if tensor.shape != there[path].shape or tensor.dtype != there[path].dtype:
            raise StateMismatch(f"{path}: {_show(there[path])} in the checkpoint, {_show(tensor)} here; {ADVICE}")


def _check_optimizer(name: str, part: torch.optim.Optimizer, saved: Any) -> None:
    groups = saved.get("param_groups") if isinstance(saved, dict) else None
    if not isinstance(groups, list):
        raise StateMismatch(f"{name}: not the state of an optimiser in the checkpoint; {ADVICE}")
    here = [len(group["params"]) for group in part.param_groups]
    there = [len(group["params"]) for group in groups]
    if here != there:
        raise StateMismatch(f"{name}: groups of {there} parameters in the checkpoint, of {here} here; {ADVICE}")
    for ours, theirs in zip(part.param_groups, groups, strict=True):
        # Another version of the same optimiser adds settings; only another optimiser adds and lacks some.
        added, lacking = set(ours) - set(theirs), set(theirs) - set(ours) - {"initial_lr"}
        if added - {"initial_lr"} and lacking:
            raise StateMismatch(
                f"{name}: another optimiser wrote it (it has {sorted(lacking)} and not {sorted(added)}); {ADVICE}"
            )


def _same_names(what: str, there: set[str], here: set[str]) -> None:
    if there != here:
        missing, extra = sorted(here - there), sorted(there - here)
        problems = [f"lacks {_few(missing)}"] * bool(missing) + [f"has {_few(extra)}, unknown here"] * bool(extra)
        raise StateMismatch(f"{what}: the checkpoint {' and '.join(problems)}; {ADVICE}")


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more


def _leaves(value: Any, name: str) -> dict[str, Tensor]:
    if isinstance(value, Tensor):
        return {name: value}
    if isinstance(value, Mapping):
        members = [(f"{name}.{key}", item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        members = [(f"{name}.{i}", item) for i, item in enumerate(value)]
    else:
        return {}
    return {path: leaf for key, item in members for path, leaf in _leaves(item, key).items()}


def _cloned(tensors: Mapping[str, Tensor], state: Any) -> dict[str, Tensor]:
    if isinstance(state, list):
        return {name: tensor for item in state for name, tensor in _cloned(tensors, item).items()}
    if not isinstance(state, dict):
        return {}
    if (name := state.get("$tensor")) is not None and name in tensors:
        return {name: tensors[name].clone()}
    if (name := state.get("$array")) is not None and name in tensors:
        return {name: tensors[name]}
    return _cloned(tensors, list(state.values()))


def _show(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
