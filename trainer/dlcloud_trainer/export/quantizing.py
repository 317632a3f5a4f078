"""An ONNX file in int8.

May import torch; onnx and onnxruntime inside functions. Static: convolutions and dense layers with the ranges of their
inputs measured on training samples, as QuantizeLinear and DequantizeLinear around float operators, which onnxruntime
fuses. Dynamic: ranges measured while it computes; for LSTM and dense layers. Convolutions are slower that way than in
float32, so they are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .exported import Values
from .onnx_file import quiet, set_metadata

CALIBRATION_SAMPLES = 256
CALIBRATION_BATCH = 32
STATIC = (
    "Add", "AveragePool", "Clip", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "LeakyRelu", "MatMul", "MaxPool",
    "ReduceMean", "Relu", "Reshape",
)  # fmt: skip
DYNAMIC = ("Gather", "Gemm", "LSTM", "MatMul")


def quantize_static(source: Path, target: Path, names: list[str], samples: Values) -> None:
    """Write `target`, calibrated on `samples` (tensors as the model takes them)."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = batches(names, samples)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._batches, None)

    with quiet():
        quantize(
            str(source),
            str(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(STATIC),
            per_channel=True,
            # Seven bits: eight-bit products overflow the 16-bit sums of processors without VNNI.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    keep_metadata(source, target, "static")


def quantize_dynamic(source: Path, target: Path) -> None:
    """Write `target`; ranges of inputs are measured while it computes."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as quantize

    with quiet():
        quantize(str(source), str(target), op_types_to_quantize=list(DYNAMIC), weight_type=QuantType.QInt8)
    keep_metadata(source, target, "dynamic")


def batches(names: list[str], samples: Values) -> Iterator[dict[str, Any]]:
    """The samples by the inputs' names, some at a time."""
    for start in range(0, len(samples[0]), CALIBRATION_BATCH):
        yield {
            name: tensor[start : start + CALIBRATION_BATCH].cpu().numpy()
            for name, tensor in zip(names, samples, strict=True)
        }


def keep_metadata(source: Path, target: Path, kind: str) -> None:
    """The source's metadata, and how it was quantised."""
    import onnx

    model = onnx.load(target)
    told = {entry.key: entry.value for entry in onnx.load(source, load_external_data=False).metadata_props}
    set_metadata(model, {**told, "quantization": kind})
    onnx.checker.check_model(model)
    onnx.save(model, target)
