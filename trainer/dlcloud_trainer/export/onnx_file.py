"""From an `Exported` to an ONNX file, and the proof that it computes the same.

May import torch and numpy; onnx and onnxruntime inside functions.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .exported import Exported, Values

TOLERANCE = 1e-4  # largest difference of any output from torch's: float32 summed in another order makes 1e-6
_LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "root")


class NotTheSame(Exception):
    """The file does not compute what the model computes."""


def write_onnx(exported: Exported, path: Path, metadata: Mapping[str, str]) -> None:
    """Trace the module and write it with its metadata; nothing of this machine (paths, stack traces) stays in it."""
    import onnx

    names = sorted({name for one in exported.inputs for name in one.dynamic.values()})
    sizes = {name: torch.export.Dim(name) for name in names}
    shapes = tuple({axis: sizes[name] for axis, name in one.dynamic.items()} for one in exported.inputs)
    exported.module.eval()
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            exported.module,
            exported.examples[0],
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=[one.name for one in exported.inputs],
            output_names=[exported.output],
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    strip(model)
    set_metadata(model, metadata)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def strip(model: Any) -> None:
    """Take away what the tracing noted: where each node came from, and shapes that a quantiser would contradict."""
    graph = model.graph
    del graph.value_info[:]
    for one in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del one.metadata_props[:]
        one.doc_string = ""


def set_metadata(model: Any, metadata: Mapping[str, str]) -> None:
    """Write the metadata, sorted, in place of any other."""
    del model.metadata_props[:]
    for key in sorted(metadata):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, metadata[key]


class Runner:
    """A model file in onnxruntime, on the CPU with so many threads."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.names = [one.name for one in self._session.get_inputs()]

    def __call__(self, values: Values) -> Tensor:
        feed = {name: value.cpu().numpy() for name, value in zip(self.names, values, strict=True)}
        return torch.from_numpy(self._session.run(None, feed)[0])


def compare(exported: Exported, path: Path) -> float:
    """The largest difference between the file and the task's own answers, over all examples: other batch sizes than
    the traced one, and other lengths. Raises `NotTheSame`."""
    run = Runner(path)
    largest = 0.0
    for values in exported.examples:
        try:
            found = run(values)
        except Exception as error:  # onnxruntime's own, which share no base
            shapes = ", ".join(str(list(value.shape)) for value in values)
            raise NotTheSame(f"{path.name}: does not take inputs of {shapes}: {str(error).splitlines()[0]}") from None
        with exactly():
            expected = exported.reference(values).detach().float().cpu()
        if found.shape != expected.shape:
            raise NotTheSame(f"{path.name}: gives {list(found.shape)} where torch gives {list(expected.shape)}")
        largest = max(largest, float((found - expected).abs().max()))
    if not largest <= TOLERANCE:
        raise NotTheSame(f"{path.name}: differs from torch by {largest:.2g}, more than {TOLERANCE:g}")
    return largest


@contextlib.contextmanager
def exactly() -> Iterator[None]:
    """A GPU computes in float32, not in the shorter numbers that it is faster with: those differ by 1e-3."""
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32 = products.allow_tf32 = False
    try:
        yield
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before


def shapes_of(examples: Sequence[Values]) -> list[list[list[int]]]:
    """The shapes of all inputs of each example."""
    return [[list(value.shape) for value in values] for values in examples]


class quiet:  # noqa: N801 - used as a function
    """The exporters' own words (torchvision is missing, an operator is old) say nothing to a user."""

    def __enter__(self) -> None:
        self._levels = {name: logging.getLogger(name).level for name in _LOGGERS}
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *_: object) -> None:
        self._warnings.__exit__(None, None, None)
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)
