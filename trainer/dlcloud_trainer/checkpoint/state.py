"""The parts of a training state (models, optimisers, schedules) to named tensors and JSON, and back.

May import torch, layout, plain and staging. Restoring is strict: what does not fit is named before anything is changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from .errors import StateMismatch
from .layout import TensorSpec
from .plain import decode, encode
from .staging import dtype_of, plan

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
    target = Target(parts)
    own = target.place(plan(tensors)[0], state)
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
    target.finish()


class Target:
    """Where a checkpoint's tensors belong in `parts`: a module's own tensors, and for the rest new ones it will keep.
    So a state is restored into the memory it will need anyway."""

    def __init__(self, parts: Mapping[str, Stateful]) -> None:
        self._parts = parts
        self._state: Mapping[str, Any] = {}
        self._tensors: dict[str, Tensor] = {}

    def place(self, specs: Mapping[str, TensorSpec], state: Mapping[str, Any]) -> dict[str, Tensor]:
        """The tensors to fill before `finish`; raises `StateMismatch` before any part was changed."""
        self._tensors, self._state = {}, state  # an earlier, damaged checkpoint's go before there are new ones
        _same_names("parts", set(state), set(self._parts))
        blank = {
            name: torch.empty(spec.shape, dtype=dtype_of(name, spec), device="meta") for name, spec in specs.items()
        }
        blank |= {name: torch.zeros(blank[name].shape, dtype=blank[name].dtype) for name in _arrays(state, blank)}
        names = {id(tensor): name for name, tensor in blank.items()}
        found: dict[str, Tensor] = {}
        for name, part in self._parts.items():
            saved = decode(state[name], blank)
            _check(name, part, saved)
            for tensor, own in _own(name, part, saved):
                found[names[id(tensor)]] = own
        for name, tensor in blank.items():
            if name not in found:
                found[name] = torch.empty_like(tensor, device="cpu") if tensor.is_meta else tensor
        self._tensors = {name: found[name] for name in specs}
        return self._tensors

    def finish(self) -> None:
        """All tensors are filled: load them, and what is no tensor."""
        for name, part in self._parts.items():
            try:
                part.load_state_dict(decode(self._state[name], self._tensors))
            except (RuntimeError, ValueError, KeyError, TypeError) as error:
                raise StateMismatch(f"{name}: {str(error).strip().splitlines()[0]}; {ADVICE}") from error
        self._tensors = {}


def _own(name: str, part: Stateful, saved: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Tensors of `saved`, each with the one to fill in its place."""
    if isinstance(part, torch.nn.Module):
        there = _leaves(saved, name)
        # What a hook of the module's gives instead of its own tensors is as good: it is loaded at the end.
        yield from ((there[path], own) for path, own in _leaves(part.state_dict(), name).items())
    if isinstance(part, torch.optim.Optimizer):
        for ours, theirs in zip(part.param_groups, saved["param_groups"], strict=True):
            for parameter, key in zip(ours["params"], theirs["params"], strict=True):
                for tensor in _leaves(saved["state"].get(key, {}), "").values():
                    # load_state_dict keeps what lies like this; counters it leaves where they are.
                    if tensor.is_meta and tensor.shape == parameter.shape and tensor.dim() > 0:
                        yield tensor, torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False)


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


def _arrays(state: Any, tensors: Mapping[str, Tensor]) -> set[str]:
    """Names of the tensors that were numpy arrays."""
    if isinstance(state, list):
        return {name for item in state for name in _arrays(item, tensors)}
    if not isinstance(state, dict):
        return set()
    if (name := state.get("$array")) is not None:
        return {name} & tensors.keys() if isinstance(name, str) else set()
    return _arrays(list(state.values()), tensors)


def _show(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
