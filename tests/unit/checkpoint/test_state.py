"""State to tensors and JSON and back: exactly the same, or an error that names what does not fit."""

from __future__ import annotations

import json
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dlcloud_trainer.checkpoint import Restored, collect, restore_into
from dlcloud_trainer.checkpoint.errors import Damaged, StateMismatch, StateNotPlain
from dlcloud_trainer.checkpoint.plain import decode, encode
from dlcloud_trainer.checkpoint.settings import in_memory
from dlcloud_trainer.checkpoint.spread import Spread
from dlcloud_trainer.checkpoint.staging import DTYPES, Staging, plan, views
from dlcloud_trainer.checkpoint.state import Target

shapes = st.sampled_from([(), (0,), (1,), (3,), (2, 3), (0, 4), (2, 1, 5)])


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any bits: NaN payloads and denormals included."""
    dtype = draw(st.sampled_from(sorted(DTYPES.values(), key=str)))
    shape = draw(shapes)
    count = int(np.prod(shape)) * dtype.itemsize
    raw = draw(st.binary(min_size=count, max_size=count))
    if dtype == torch.bool:
        raw = bytes(byte & 1 for byte in raw)
    return torch.frombuffer(bytearray(raw or b"\0" * 16), dtype=torch.uint8)[: len(raw)].view(dtype).view(shape)


leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5) | tensors()
)
keys = st.text(max_size=5) | st.integers() | st.booleans() | st.none() | st.tuples(st.integers(), st.text(max_size=2))
states = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        | st.dictionaries(keys, inner, max_size=3)
        | st.dictionaries(keys, inner, max_size=3).map(OrderedDict)
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    """Equal in type, order and every bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        flat = [t.contiguous().flatten().view(torch.uint8) if t.numel() else t.flatten() for t in (a, b)]
        return a.dtype == b.dtype and a.shape == b.shape and (not a.numel() or torch.equal(*flat))
    if isinstance(a, float):
        return (a == b and struct.pack("d", a) == struct.pack("d", b)) or (a != a and b != b)
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) and same(a[x], b[y]) for x, y in zip(a, b, strict=True))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@given(states)
def test_any_nested_state_comes_back_bit_for_bit(state: Any) -> None:
    found: dict[str, torch.Tensor] = {}
    text = json.dumps(encode(state, "part", found), allow_nan=False)
    specs, flat = Staging().copy(found)
    assert same(decode(json.loads(text), views(flat, specs)), state)


@given(states, st.sampled_from([64, 192, 1 << 20]))
def test_an_announced_checkpoint_sent_in_pieces_is_the_same(state: Any, piece_bytes: int) -> None:
    found: dict[str, torch.Tensor] = {}
    body = {"part": encode(state, "part", found)}
    specs, size = plan(found)
    one = Restored(3, 96, "s3://b/m", 0.5, found, body, specs)
    again = Restored.announced(one.header(), in_memory)
    sent, received = Spread(one.tensors, one.specs), Spread(again.tensors, again.specs)
    for start in range(0, size, piece_bytes):
        piece = torch.full((min(piece_bytes, size - start),), 255, dtype=torch.uint8)
        sent.gather(start, piece)
        received.scatter(start, piece)
    assert (again.step, again.samples, again.manifest, again.metric) == (3, 96, "s3://b/m", 0.5)
    assert same(decode(again.state["part"], again.tensors), state)


def test_counters_arrays_and_numpy_numbers_come_back() -> None:
    found: dict[str, torch.Tensor] = {}
    state = {"milestones": Counter({10: 1, 20: 2}), "rng": np.arange(5, dtype=np.uint32), "best": np.float64(0.5)}
    again = decode(json.loads(json.dumps(encode(state, "s", found))), found)
    assert again["milestones"] == state["milestones"] and isinstance(again["milestones"], Counter)
    assert np.array_equal(again["rng"], state["rng"]) and again["rng"].dtype == np.uint32
    assert again["best"] == 0.5


def test_paths_that_ask_for_the_same_name_get_two() -> None:
    found: dict[str, torch.Tensor] = {}
    state = {"a.b": torch.tensor(1), "a": {"b": torch.tensor(2)}, 0: torch.tensor(3), "0": torch.tensor(4)}
    assert same(decode(encode(state, "s", found), found), state)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (object(), "part.x: a builtins.object cannot be stored"),
        (lambda: 0, "part.x: a builtins.function cannot be stored"),
        ({1, 2}, "part.x: a builtins.set"),
        ({torch.float32: 1}, "part.x: a key of type dtype"),
        (np.array(["a"]), "part.x: a numpy array of <U1"),
    ],
)
def test_what_needs_pickle_is_refused_by_name(value: Any, said: str) -> None:
    with pytest.raises(StateNotPlain) as refused:
        encode({"x": value}, "part", {})
    assert str(refused.value).startswith(said)


def test_a_tag_of_another_program_is_damage() -> None:
    with pytest.raises(Damaged, match=r"'\$future'"):
        decode({"$future": 1}, {})


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(3))


def trained(
    make: Callable[[Any], torch.optim.Optimizer], seed: int, steps: int
) -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    torch.manual_seed(seed)
    model = network()
    model(torch.zeros(1, 1, 8, 8))
    optimizer = make(model.parameters())
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4])
    train(model, optimizer, schedule, steps)
    return model, optimizer, schedule


def train(model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any, steps: int) -> None:
    generator = torch.Generator().manual_seed(7)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 1, 8, 8, generator=generator)).square().mean().backward()
        optimizer.step()
        schedule.step()


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": lambda p: torch.optim.Adam(p, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "plain sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "adafactor": lambda p: torch.optim.Adafactor(p),
    "rmsprop": lambda p: torch.optim.RMSprop(p, centered=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_from_a_restored_state_bit_for_bit(name: str) -> None:
    model, optimizer, schedule = trained(OPTIMIZERS[name], seed=1, steps=3)
    found, state = collect({"model": model, "optimizer": optimizer, "schedule": schedule})
    specs, flat = Staging().copy(found)
    text = json.dumps(state)

    again = trained(OPTIMIZERS[name], seed=2, steps=0)
    parts = dict(zip(("model", "optimizer", "schedule"), again, strict=True))
    restore_into(parts, views(flat, specs), json.loads(text))
    flat.zero_()  # nothing restored may still lie in it
    train(model, optimizer, schedule, 3)
    train(*again, 3)
    for key, value in model.state_dict().items():
        assert torch.equal(value, again[0].state_dict()[key]), key
    assert schedule.get_last_lr() == again[2].get_last_lr()


def saved(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return collect({"model": model})


@pytest.mark.parametrize(
    ("here", "said"),
    [
        (nn.Linear(4, 3), "model.weight: float32 [2, 4] in the checkpoint, float32 [3, 4] here"),
        (nn.Linear(4, 2, bias=False), "tensors: the checkpoint has 'model.bias', unknown here"),
        (nn.Linear(4, 2).double(), "model.weight: float32 [2, 4] in the checkpoint, float64 [2, 4] here"),
        (nn.Bilinear(4, 4, 2), "model.weight"),
        (nn.Sequential(nn.Linear(4, 2)), "tensors: the checkpoint lacks 'model.0.bias', 'model.0.weight' and has"),
    ],
)
def test_a_model_of_another_shape_is_refused_and_left_as_it_is(here: nn.Module, said: str) -> None:
    found, state = saved(nn.Linear(4, 2))
    before = {key: value.clone() for key, value in here.state_dict().items()}
    with pytest.raises(StateMismatch) as refused:
        restore_into({"model": here}, found, state)
    assert said in str(refused.value) and "resume with the program" in str(refused.value)
    assert all(torch.equal(value, before[key]) for key, value in here.state_dict().items())


def test_a_missing_part_is_named() -> None:
    found, state = saved(nn.Linear(4, 2))
    with pytest.raises(StateMismatch, match="parts: the checkpoint lacks 'ema' and has 'model', unknown here"):
        restore_into({"ema": nn.Linear(4, 2)}, found, state)


def test_the_state_of_another_optimiser_is_refused() -> None:
    model, adam, _ = trained(OPTIMIZERS["adam"], seed=1, steps=1)
    found, state = collect({"optimizer": adam})
    with pytest.raises(StateMismatch, match="optimizer: another optimiser wrote it"):
        restore_into({"optimizer": OPTIMIZERS["sgd"](model.parameters())}, found, state)


def test_an_optimiser_over_fewer_parameters_is_refused() -> None:
    model, adam, _ = trained(OPTIMIZERS["adam"], seed=1, steps=1)
    found, state = collect({"optimizer": adam})
    with pytest.raises(StateMismatch, match=r"groups of \[6\] parameters in the checkpoint, of \[2\] here"):
        restore_into({"optimizer": OPTIMIZERS["adam"](list(model.parameters())[:2])}, found, state)


def test_a_state_is_restored_into_the_memory_it_stays_in() -> None:
    model, adam, _ = trained(OPTIMIZERS["adam"], seed=1, steps=1)
    found, state = collect({"model": model, "optimizer": adam})
    again, other, _ = trained(OPTIMIZERS["adam"], seed=2, steps=0)
    target = Target({"model": again, "optimizer": other})
    placed = target.place(plan(found)[0], state)
    target.finish()
    kept = collect({"model": again, "optimizer": other})[0]
    assert {name: tensor.data_ptr() for name, tensor in placed.items()} == {
        name: tensor.data_ptr() for name, tensor in kept.items()
    }


def test_new_state_of_an_optimiser_lies_like_its_parameters() -> None:
    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        return model, torch.optim.AdamW(model.parameters())

    model, adam = make()
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    adam.step()
    found, state = collect({"optimizer": adam})
    other, again = make()
    restore_into({"optimizer": again}, found, state)
    moment = again.state[other.weight]["exp_avg"]
    assert moment.stride() == other.weight.stride() == adam.state[model.weight]["exp_avg"].stride()
    assert torch.equal(moment, adam.state[model.weight]["exp_avg"])


class Arrays:
    """A part of numpy arrays, which keeps what it is given."""

    def __init__(self) -> None:
        self.state: Any = {}

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state_dict: Any) -> None:
        self.state = state_dict


def test_arrays_of_a_part_come_back_and_share_no_memory() -> None:
    one, other = Arrays(), Arrays()
    one.state = {"seen": np.arange(5), "deep": [{"x": np.float32([1, 2])}], "t": torch.ones(3)}
    found, state = collect({"a": one})
    restore_into({"a": other}, found, json.loads(json.dumps(state)))
    one.state["seen"][:] = 0
    found["a.t"].zero_()
    assert other.state["seen"].tolist() == [0, 1, 2, 3, 4]
    assert other.state["deep"][0]["x"].tolist() == [1, 2]
    assert other.state["t"].tolist() == [1, 1, 1]
