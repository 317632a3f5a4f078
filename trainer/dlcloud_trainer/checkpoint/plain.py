"""State as JSON plus named tensors, without pickle: what `state_dict()` returns in, exactly the same out.

May import torch and numpy. A value JSON has no word for becomes an object with one key that begins with `$`.
"""

from __future__ import annotations

import base64
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import Damaged, StateNotPlain


def encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for `value`; its tensors are added to `tensors` under names that begin with `name`. Raises
    `StateNotPlain`."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Tensor):
        return {"$tensor": _add(tensors, name, value.detach())}
    if isinstance(value, np.ndarray):
        return {"$array": _add(tensors, name, _from_numpy(value, name))}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": str(float(value))}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, list):
        return [encode(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
    if type(value) in (tuple, torch.Size):
        return {"$tuple": [encode(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]}
    if isinstance(value, Mapping):
        return _encode_mapping(value, name, tensors)
    raise StateNotPlain(
        f"{name}: a {type(value).__module__}.{type(value).__qualname__} cannot be stored; keep tensors, numbers, "
        "text, lists, tuples and dictionaries in state_dict(), and make the rest again in load_state_dict()"
    )


def decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value `encode` was given. Raises `Damaged` for what it never wrote."""
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value), "")
    if not tag.startswith("$"):
        return {key: decode(item, tensors) for key, item in value.items()}
    if tag not in DECODERS:
        raise Damaged(f"state: {tag!r} is unknown to this program; use the program that wrote it")
    return DECODERS[tag](value[tag], tensors)


def _encode_mapping(value: Mapping[Any, Any], name: str, tensors: dict[str, Tensor]) -> Any:
    metadata = getattr(value, "_metadata", None)  # nn.Module.state_dict() hangs its versions there
    if isinstance(value, OrderedDict) and isinstance(metadata, Mapping):
        content = [encode(OrderedDict(value), name, tensors), encode(dict(metadata), f"{name}._metadata", tensors)]
        return {"$module": content}
    if type(value) is dict and all(type(key) is str and not key.startswith("$") for key in value):
        return {key: encode(item, f"{name}.{key}", tensors) for key, item in value.items()}
    tag = "$counter" if isinstance(value, Counter) else "$ordered" if isinstance(value, OrderedDict) else "$dict"
    pairs = []
    for key, item in value.items():
        if not isinstance(key, str | int | float | bool | tuple | None):
            raise StateNotPlain(f"{name}: a key of type {type(key).__qualname__} cannot be stored; use text or numbers")
        pairs.append([encode(key, f"{name}.key", tensors), encode(item, f"{name}.{key}", tensors)])
    return {tag: pairs}


def _pairs(listed: Any, tensors: Mapping[str, Tensor]) -> list[tuple[Any, Any]]:
    return [(decode(key, tensors), decode(item, tensors)) for key, item in listed]


def _module(content: Any, tensors: Mapping[str, Tensor]) -> Any:
    state, metadata = (decode(part, tensors) for part in content)
    state._metadata = OrderedDict(metadata)
    return state


def _tensor(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    if name not in tensors:
        raise Damaged(f"state: tensor {name} is missing")
    return tensors[name]


DECODERS: dict[str, Callable[[Any, Mapping[str, Tensor]], Any]] = {
    "$tensor": _tensor,
    "$array": lambda name, tensors: _tensor(name, tensors).numpy().copy(),
    "$float": lambda text, tensors: float(text),
    "$bytes": lambda text, tensors: base64.b64decode(text),
    "$tuple": lambda items, tensors: tuple(decode(item, tensors) for item in items),
    "$dict": lambda pairs, tensors: dict(_pairs(pairs, tensors)),
    "$ordered": lambda pairs, tensors: OrderedDict(_pairs(pairs, tensors)),
    "$counter": lambda pairs, tensors: Counter(dict(_pairs(pairs, tensors))),
    "$module": _module,
}


def _from_numpy(value: np.ndarray[Any, Any], name: str) -> Tensor:
    try:
        return torch.from_numpy(np.ascontiguousarray(value).reshape(value.shape))
    except TypeError:
        raise StateNotPlain(f"{name}: a numpy array of {value.dtype} cannot be stored; use a number type") from None


def _add(tensors: dict[str, Tensor], name: str, tensor: Tensor) -> str:
    unique, count = name, 1
    while unique in tensors:  # {"a.b": x} and {"a": {"b": y}} ask for the same name
        count += 1
        unique = f"{name}#{count}"
    tensors[unique] = tensor
    return unique
