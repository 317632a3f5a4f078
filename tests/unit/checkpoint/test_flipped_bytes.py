"""One flipped or missing byte in a manifest or a head is noticed, wherever it is.

The one exception changes no value: JSON has two spellings of some (1e-05 and 1E-05, \\u00e9 and \\u00E9).
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcloud_trainer.checkpoint.errors import Damaged
from dlcloud_trainer.checkpoint.layout import Head, Manifest, canonical, seal, unseal

from .test_layout import HEAD, MANIFEST, json_values

DATA = {
    "manifest": (Manifest, replace(MANIFEST, metric=1.5e-07, state={"lr": [1e-05, 1e22], "ë": True}).dump()),
    "head": (Head, HEAD.dump()),
}


def meaning(data: bytes) -> Any:
    return canonical(json.loads(data))


@pytest.mark.parametrize("what", DATA)
def test_any_flipped_bit_is_noticed(what: str) -> None:
    kind, data = DATA[what]
    assert kind.parse(data, what)
    passed = []
    for index in range(len(data)):
        for bit in range(8):
            flipped = bytes([*data[:index], data[index] ^ (1 << bit), *data[index + 1 :]])
            try:
                kind.parse(flipped, what)
            except Damaged as damage:
                assert what in str(damage)
            else:
                assert meaning(flipped) == meaning(data), (index, bit)
                passed.append(data[index : index + 1])
    assert not passed or b"".join(passed).isalpha()


@pytest.mark.parametrize("what", DATA)
def test_any_missing_byte_and_any_cut_is_noticed(what: str) -> None:
    kind, data = DATA[what]
    for index in range(len(data)):
        for broken in (data[:index] + data[index + 1 :], data[:index]):
            try:
                kind.parse(broken, what)
            except Damaged as damage:
                assert what in str(damage)
            else:
                assert meaning(broken) == meaning(data), index


@given(st.dictionaries(st.text(), json_values, max_size=4), st.data())
def test_a_flipped_byte_in_any_state_is_noticed(state: dict[str, Any], data: st.DataObject) -> None:
    sealed = seal({"version": 1, "state": state})
    index = data.draw(st.integers(0, len(sealed) - 1))
    flipped = bytes([*sealed[:index], sealed[index] ^ data.draw(st.integers(1, 255)), *sealed[index + 1 :]])
    try:
        unseal(flipped, "x")
    except Damaged:
        return
    assert meaning(flipped) == meaning(sealed)
