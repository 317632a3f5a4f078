"""A workload's parameters are those of the contract: known by name, of their type, within their limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dlcloud_operator.api import parameters
from dlcloud_operator.api.parameters import check_data, check_parameters, fill_defaults, load_contract

CONTRACT = {
    "version": 1,
    "workloads": {
        "net": {
            "description": "A net.",
            "data": ["builtin://digits", "s3://"],
            "parameters": {
                "epochs": {"type": "integer", "default": 10, "minimum": 1, "maximum": 100},
                "learningRate": {"type": "number", "default": 0.1, "exclusiveMinimum": 0, "exclusiveMaximum": 1},
                "augment": {"type": "boolean", "default": False},
                "kind": {"type": "string", "default": "small", "enum": ["small", "large"]},
                "note": {"type": "string", "default": ""},
                "maxSteps": {"type": "integer", "default": None, "minimum": 1},
            },
        }
    },
}


@pytest.fixture(autouse=True)
def contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "parameters.json"
    file.write_text(json.dumps(CONTRACT), encoding="utf-8")
    loaded = load_contract(file)
    monkeypatch.setattr(parameters, "load_contract", lambda: loaded)


def fault(name: str, value: Any) -> str:
    found = check_parameters("net", {name: value})
    assert all(problem.path == f"spec.parameters.{name}" for problem in found)
    return found[0].message if found else ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 1),
        ("epochs", 100),
        ("epochs", 1e1),
        ("learningRate", 0.5),
        ("augment", True),
        ("kind", "large"),
        ("note", ""),
        ("maxSteps", None),
        ("maxSteps", 5),
    ],
)
def test_a_good_value_is_accepted(name: str, value: Any) -> None:
    assert fault(name, value) == ""


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("epochs", 0, "0 is out of range; give a whole number from 1 to 100"),
        ("epochs", 101, "101 is out of range; give a whole number from 1 to 100"),
        ("epochs", 1.5, "1.5 is a number with a fraction; give a whole number from 1 to 100"),
        ("epochs", True, "true is a boolean; give a whole number from 1 to 100"),
        ("epochs", "3", "'3' is text; give a whole number from 1 to 100, without quotes"),
        (
            "epochs",
            10**400,
            "a number of more than 30 digits is more than 64 bits hold; give a whole number from 1 to 100",
        ),
        ("epochs", None, "is empty; give a whole number from 1 to 100, or leave the line out"),
        ("learningRate", 0, "0 is out of range; give a number more than 0 and less than 1"),
        ("learningRate", 1, "1 is out of range; give a number more than 0 and less than 1"),
        ("learningRate", float("nan"), "nan is not a finite number; give a number more than 0 and less than 1"),
        ("learningRate", float("inf"), "inf is not a finite number; give a number more than 0 and less than 1"),
        ("learningRate", [0.1], "[0.1] is a list; give a number more than 0 and less than 1"),
        ("augment", 1, "1 is a number; give true or false"),
        ("kind", "larg", "'larg' is not allowed (did you mean large?); give one of 'small', 'large'"),
        ("note", 3, "3 is a number; give text"),
        ("maxSteps", 0, "0 is out of range; give a whole number at least 1"),
    ],
)
def test_a_bad_value_is_refused_in_one_sentence(name: str, value: Any, sentence: str) -> None:
    assert fault(name, value) == sentence


@pytest.mark.parametrize(
    ("name", "near"), [("epoch", "epochs"), ("learning_rate", "learningRate"), ("max-steps", "maxSteps")]
)
def test_an_unknown_parameter_is_named_with_its_nearest_and_all_there_are(name: str, near: str) -> None:
    assert fault(name, 1) == (
        f"is not a parameter of net (did you mean {near}?); it has augment, epochs, kind, learningRate, maxSteps, note"
    )


def test_nothing_is_guessed_for_a_word_like_no_other() -> None:
    assert fault("zzz", 1).startswith("is not a parameter of net; it has")


def test_an_unknown_workload_is_named_with_its_nearest() -> None:
    (problem,) = check_parameters("nett", {})
    assert (problem.path, problem.message) == (
        "spec.workload",
        "'nett' is not a built-in workload (did you mean net?); give one of net",
    )


def test_data_a_workload_cannot_read_is_refused() -> None:
    assert check_data("net", "s3://bucket/x") == ()
    (problem,) = check_data("net", "file:///x")
    assert problem.message.endswith("give an address that begins with builtin://digits or s3://")


def test_defaults_are_filled_in_and_whole_floats_become_integers() -> None:
    assert fill_defaults("net", {"epochs": 2e1, "kind": "large"}) == {
        "epochs": 20,
        "learningRate": 0.1,
        "augment": False,
        "kind": "large",
        "note": "",
        "maxSteps": None,
    }
    assert type(fill_defaults("net", {"epochs": 2e1})["epochs"]) is int


def test_a_contract_of_another_version_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text('{"version": 2, "workloads": {}}', encoding="utf-8")
    with pytest.raises(ValueError, match="version 2"):
        load_contract(file)


def test_the_defaults_of_the_real_contract_are_allowed_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    real = load_contract()
    assert real, "there is a workload"
    for name in real:
        assert check_parameters(name, fill_defaults(name, {})) == ()
