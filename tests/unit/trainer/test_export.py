"""What is handed over computes what the model computes, at other sizes than the traced one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlcloud_trainer.assignment import DistillPlan, ExportPlan, PrunePlan, StoreAddress
from dlcloud_trainer.data import DIGITS_URI, Images, Splits
from dlcloud_trainer.data.text import Texts
from dlcloud_trainer.errors import InvalidInput
from dlcloud_trainer.export.about import blank, data_hash, describe
from dlcloud_trainer.export.card import Facts
from dlcloud_trainer.export.compression import Compression
from dlcloud_trainer.export.distilling import Teacher
from dlcloud_trainer.export.exported import HandsOver
from dlcloud_trainer.export.handover import make
from dlcloud_trainer.export.onnx_file import TOLERANCE, NotTheSame, Runner, compare
from dlcloud_trainer.parameters import parse_parameters
from dlcloud_trainer.workload import Task
from dlcloud_trainer.workloads import find_workload, workload_names

CPU = torch.device("cpu")

pytestmark = pytest.mark.timeout(300)  # tracing takes seconds, on a busy machine many


def texts() -> Splits[Texts]:
    """Reviews of three words and padding; the label is whether there is the word 3."""
    generator = torch.Generator().manual_seed(1)

    def part(count: int) -> Texts:
        lengths = torch.randint(1, 13, (count,), generator=generator)
        tokens = torch.randint(2, 6, (count, 12), generator=generator, dtype=torch.int32)
        tokens[torch.arange(12).unsqueeze(0) >= lengths.unsqueeze(1)] = 0
        return Texts(tokens, lengths, (tokens == 3).any(1).long())

    return Splits(part(64), part(16), part(16), ("negative", "positive"), vocabulary=("", "?", "a", "b", "c", "d"))


def colours() -> Splits[Images]:
    """Small colour images of two classes."""
    generator = torch.Generator().manual_seed(2)

    def part(count: int) -> Images:
        images = torch.randint(0, 256, (count, 3, 18, 18), generator=generator, dtype=torch.uint8)
        return Images(images, torch.arange(count) % 2)

    means = (120.0, 118.0, 121.0), (70.0, 71.0, 69.0)
    return Splits(part(40), part(12), part(12), ("a", "b"), means)


def made(name: str, **given: Any) -> tuple[Task, Splits[Any], Any]:
    workload = find_workload(name)
    parameters = parse_parameters(workload, given)
    reads_text = name == "rnn" and given.get("kind") != "rows"
    if name == "cifar":
        data: Splits[Any] = colours()
    else:
        data = texts() if reads_text else workload.load_data(DIGITS_URI, StoreAddress(), parameters)
    torch.manual_seed(3)
    task = workload.make_task(parameters, data, CPU)
    for part in task.parts.values():
        if isinstance(part, nn.Module):
            for tensor in part.parameters():  # fresh biases are all 0, and a mistake with them would not show
                tensor.data += 0.02 * torch.randn(tensor.shape)
            for module in part.modules():
                if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                    module.weight.data[module.padding_idx] = 0
            part.eval()
    return task, data, parameters


def facts(name: str, metrics: Mapping[str, Mapping[str, float]] | None = None) -> Facts:
    return Facts(
        name="job", namespace="default", uid="u", workload=name, description="A model.", parameters={"epochs": 1},
        step=7, samples=70, checkpoint="file:///c/", metrics=metrics or {}, data={"uri": DIGITS_URI, "sha256": "00"},
    )  # fmt: skip


def handed(folder: Path, name: str, plan: ExportPlan | None = None, **given: Any) -> tuple[dict[str, Any], Task, Any]:
    task, data, parameters = made(name, **given)
    plan = plan or ExportPlan()
    compression = Compression(plan, name, task, parameters)
    compression.begin_epoch(parameters.epochs)
    assert isinstance(task, HandsOver)
    return make(task, data, plan, facts(name), compression.smaller, folder), task, data


def told(path: Path) -> dict[str, str]:
    import onnx

    return {one.key: one.value for one in onnx.load(path).metadata_props}


ALL = [
    ("cnn", {"architecture": "small"}),
    ("cifar", {"tta": True}),
    ("mlp", {"ema": 0.9}),
    ("rnn", {"kind": "rows", "hidden": 16}),
    ("rnn", {"kind": "lstm", "hidden": 16, "pooling": "last"}),
    ("rnn", {"kind": "lstm", "hidden": 16, "bidirectional": True}),
    ("rnn", {"kind": "bigrams", "buckets": 64}),
    ("gan", {"width": 4}),
    ("vae", {"architecture": "conv", "hidden": 32}),
]


@pytest.mark.parametrize(("name", "given"), ALL, ids=lambda value: str(value))
def test_the_file_computes_what_the_task_does_at_other_batch_sizes_and_lengths(
    tmp_path: Path, name: str, given: dict[str, Any]
) -> None:
    card, _, _ = handed(tmp_path, name, **given)
    assert card["checked"]["largestDifference"] <= TOLERANCE
    sizes = {shapes[0][0] for shapes in card["checked"]["shapes"]}
    assert {1, 2, 7} <= sizes
    if name == "rnn" and given["kind"] != "rows":
        assert {shapes[0][1] for shapes in card["checked"]["shapes"]} == {12, 6}
    assert {one["name"] for one in card["files"]} == {"model.onnx", "model.safetensors", "model-card.md"}


def test_every_workload_can_be_handed_over_or_says_why_not() -> None:
    assert {name for name, _ in ALL} == set(workload_names())


def test_the_file_tells_all_that_is_needed_to_use_it(tmp_path: Path) -> None:
    handed(tmp_path, "rnn", kind="lstm", hidden=8)
    found = told(tmp_path / "model.onnx")
    assert json.loads(found["classes"]) == ["negative", "positive"]
    assert json.loads(found["vocabulary"]) == ["", "?", "a", "b", "c", "d"]
    assert [one["name"] for one in json.loads(found["inputs"])] == ["tokens", "lengths"]
    assert json.loads(found["inputs"])[0]["shape"] == ["batch", "length"]
    assert found["workload"] == "rnn"
    assert json.loads(found["parameters"]) == {"epochs": 1}
    assert json.loads(found["versions"])["torch"] == version("torch")


def test_the_file_holds_no_path_of_this_machine(tmp_path: Path) -> None:
    handed(tmp_path, "mlp")
    content = (tmp_path / "model.onnx").read_bytes()
    assert b"site-packages" not in content
    assert b".py" not in content


def test_images_go_in_as_they_are_read_and_probabilities_come_out(tmp_path: Path) -> None:
    _, task, data = handed(tmp_path, "cnn", architecture="conv8")
    images = data.test.images[:40]
    found = Runner(tmp_path / "model.onnx")((images,))
    expected = task.scores(task.inputs((images, None))).softmax(1)  # type: ignore[attr-defined]
    assert images.dtype == torch.uint8
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(found.sum(1), torch.ones(40), atol=1e-5)


def test_a_file_that_computes_something_else_is_found_out(tmp_path: Path) -> None:
    card, task, data = handed(tmp_path, "mlp")
    assert card["files"]
    exported = task.exported(data, lambda model: deepcopy(model))  # type: ignore[attr-defined]
    compare(exported, tmp_path / "model.onnx")
    task.model.dense.bias.data[3] += 0.01  # type: ignore[attr-defined]
    with pytest.raises(NotTheSame, match=r"differs from torch by 0\.00"):
        compare(exported, tmp_path / "model.onnx")


@pytest.mark.parametrize(("kind", "least"), [("static", "QLinear|QuantizeLinear"), ("dynamic", "MatMulInteger")])
def test_int8_is_smaller_and_its_cost_is_told(tmp_path: Path, kind: str, least: str) -> None:
    import onnx

    card, _, _ = handed(tmp_path, "mlp", ExportPlan(quantize=kind))
    sizes = {one["name"]: one["sizeBytes"] for one in card["files"]}
    assert sizes["model-int8.onnx"] < 0.4 * sizes["model.onnx"]
    operators = {node.op_type for node in onnx.load(tmp_path / "model-int8.onnx").graph.node}
    assert operators & set(least.split("|"))
    assert card["quantized"]["samples"] == 359
    assert abs(card["quantized"]["accuracy"] - card["quantized"]["accuracyFloat32"]) < 0.05
    assert told(tmp_path / "model-int8.onnx")["quantization"] == kind


def test_an_lstm_in_int8_is_one_quantised_operator(tmp_path: Path) -> None:
    import onnx

    card, _, _ = handed(tmp_path, "rnn", ExportPlan(quantize="dynamic"), kind="lstm", hidden=16)
    operators = {node.op_type for node in onnx.load(tmp_path / "model-int8.onnx").graph.node}
    assert "DynamicQuantizeLSTM" in operators
    assert card["quantized"]["largestDifference"] < 0.05


def test_dynamic_int8_leaves_convolutions_alone(tmp_path: Path) -> None:
    import onnx

    handed(tmp_path, "cnn", ExportPlan(quantize="dynamic"), architecture="conv8")
    operators = [node.op_type for node in onnx.load(tmp_path / "model-int8.onnx").graph.node]
    assert "Conv" in operators
    assert "ConvInteger" not in operators
    assert "MatMulInteger" in operators


REFUSED = [
    ("rnn", {"kind": "lstm"}, ExportPlan(quantize="static"), "export.quantize: static: it does not go with rnn"),
    ("gan", {}, ExportPlan(quantize="static"), "export.quantize: static: it does not go with gan: the generator draws"),
    ("gan", {}, ExportPlan(prune=PrunePlan(0.5, False, 1)), "export.prune: it does not go with gan"),
    ("vae", {}, ExportPlan(prune=PrunePlan(0.5, True, 1)), "export.prune.structured: channels can be removed from a"),
    ("vae", {}, ExportPlan(distill=DistillPlan("file:///t/", 4, 0.5)), "export.distill: vae is no classifier"),
    ("mlp", {"patience": 2}, ExportPlan(prune=PrunePlan(0.5, False, 1)), "export.prune: pruning comes after the last"),
]


@pytest.mark.parametrize(("name", "given", "plan", "words"), REFUSED, ids=lambda value: str(value)[:30])
def test_what_does_not_go_together_is_refused_in_words_before_training(
    name: str, given: dict[str, Any], plan: ExportPlan, words: str
) -> None:
    task, _, parameters = made(name, **given)
    with pytest.raises(InvalidInput) as error:
        Compression(plan, name, task, parameters)
    assert str(error.value).startswith(words)


def weights_of(task: Task) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in task.model.named_parameters()}  # type: ignore[attr-defined]


def test_magnitude_pruning_removes_the_smallest_weights_of_all_and_they_stay_away() -> None:
    task, _, parameters = made("mlp", ema=0.9)
    before = weights_of(task)
    average = {name: tensor.clone() for name, tensor in task.average.model.named_parameters()}  # type: ignore[attr-defined]
    compression = Compression(ExportPlan(prune=PrunePlan(0.75, False, 2)), "mlp", task, parameters)
    compression.begin_epoch(parameters.epochs - 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights_of(task).items())
    compression.begin_epoch(parameters.epochs)
    pruned = weights_of(task)
    judged = dict(task.average.model.named_parameters())  # type: ignore[attr-defined]
    names = ("dense1.weight", "dense.weight")
    gone = {name: pruned[name] == 0 for name in names}
    assert sum(int(one.sum()) for one in gone.values()) == int(0.75 * sum(one.numel() for one in gone.values()))
    assert all(torch.equal(judged[name] == 0, gone[name]) for name in names)
    largest = max(float(average[name][gone[name]].abs().max()) for name in names)
    assert largest <= min(float(average[name][~gone[name]].abs().min()) for name in names)
    assert torch.equal(pruned["dense1.bias"], before["dense1.bias"])
    task.model.dense1.weight.data.add_(1.0)  # type: ignore[attr-defined]
    assert compression.pruning is not None
    compression.pruning.hold()
    assert torch.equal(weights_of(task)["dense1.weight"] == 0, pruned["dense1.weight"] == 0)
    compression.begin_epoch(parameters.epochs + 1)  # once in a training
    assert torch.equal(weights_of(task)["dense1.weight"] == 0, pruned["dense1.weight"] == 0)


@pytest.mark.parametrize(
    ("name", "given"),
    [("mlp", {"layers": 2}), ("cnn", {"architecture": "conv32-64"}), ("cnn", {"architecture": "small"}), ("cifar", {})],
)
def test_a_model_without_its_pruned_channels_is_smaller_and_answers_the_same(
    tmp_path: Path, name: str, given: dict[str, Any]
) -> None:
    plan = ExportPlan(prune=PrunePlan(0.5, True, 1))
    task, data, parameters = made(name, **given)
    for module in task.model.modules():  # type: ignore[attr-defined]
        if isinstance(module, nn.BatchNorm2d):  # as after a training: a channel of zeros must stay one
            module.running_mean += 0.3
            module.bias.data += 0.2
    compression = Compression(plan, name, task, parameters)
    compression.begin_epoch(parameters.epochs)
    whole = sum(weight.numel() for weight in task.model.parameters())  # type: ignore[attr-defined]
    card = make(task, data, plan, facts(name), compression.smaller, tmp_path)  # type: ignore[arg-type]
    assert card["weights"]["count"] < 0.6 * whole
    assert card["checked"]["largestDifference"] < TOLERANCE


def test_pruning_goes_on_from_a_checkpoint_with_the_same_masks() -> None:
    plan = ExportPlan(prune=PrunePlan(0.5, False, 2))
    first, _, parameters = made("mlp")
    one = Compression(plan, "mlp", first, parameters)
    one.begin_epoch(parameters.epochs)
    second, _, _ = made("mlp")
    other = Compression(plan, "mlp", second, parameters)
    assert one.pruning is not None and other.pruning is not None
    other.pruning.load_state_dict(one.pruning.state_dict())
    other.begin_epoch(parameters.epochs + 1)
    assert other.pruning.masks.keys() == one.pruning.masks.keys()
    assert all(torch.equal(mask, other.pruning.masks[name]) for name, mask in one.pruning.masks.items())


def test_the_learning_rate_begins_anew_for_fine_tuning() -> None:
    task, _, parameters = made("mlp", epochs=4, schedule="linear", learningRate=0.01)
    compression = Compression(ExportPlan(prune=PrunePlan(0.5, False, 2)), "mlp", task, parameters)
    rates = [compression.rate(samples, 100) for samples in range(0, 600, 10)]
    assert max(rates[:40]) == pytest.approx(0.01, rel=0.1)
    assert rates[39] < 0.0005
    assert max(rates[40:]) == pytest.approx(0.002, rel=0.1)
    assert rates[-1] < 0.0002


def test_a_layer_of_small_weights_is_not_removed_whole() -> None:
    task, _, parameters = made("mlp")
    task.model.dense.weight.data *= 1e-6  # type: ignore[attr-defined]
    compression = Compression(ExportPlan(prune=PrunePlan(0.5, False, 1)), "mlp", task, parameters)
    compression.begin_epoch(parameters.epochs)
    assert int(weights_of(task)["dense.weight"].count_nonzero()) == 1


def test_a_model_is_built_from_what_a_checkpoint_says_of_the_data() -> None:
    data = texts()
    state = json.loads(json.dumps(describe("file:///reviews", data)))
    found = blank(state, data.vocabulary)
    assert found.classes == data.classes
    assert found.vocabulary == data.vocabulary
    assert [tensor.dtype for tensor in found.train] == [tensor.dtype for tensor in data.train]
    assert found.train._fields == ("tokens", "lengths", "labels")
    assert state["samples"] == [64, 16, 16]


def test_the_datas_hash_changes_with_any_sample() -> None:
    data = texts()
    before = data_hash(data)
    assert before == data_hash(texts())
    data.test.tokens[3, 0] += 1
    assert data_hash(data) != before


def test_a_teacher_sees_images_as_it_was_taught_to() -> None:
    images = torch.randint(0, 256, (5, 3, 4, 4), generator=torch.Generator().manual_seed(3)).float()
    its, own = ((0.0,), (255.0,)), ((120.0, 118.0, 121.0), (70.0, 71.0, 69.0))
    teacher = Teacher(nn.Flatten(), DistillPlan("file:///t/", 1, 1), own, its)
    mean, deviation = (torch.tensor(values).view(-1, 1, 1) for values in own)
    wanted = (images / 255).flatten(1)
    # No distance from what the teacher says, though the student's images are other numbers.
    assert teacher.blend(torch.tensor(7.0), wanted, ((images - mean) / deviation,)).item() == pytest.approx(0, abs=1e-4)
    assert teacher.blend(torch.tensor(7.0), wanted, (images / 255,)).item() > 0.05
