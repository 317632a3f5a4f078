"""`traced`: a workload of the tests alone. Each sample is its own number, and every optimiser step writes down which it
was made from: a file for each process in $TRACE_DIR, a line for each step. Batch normalisation and dropout make weights
and measures depend on everything a resumed training could get wrong.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dlcloud_trainer.assignment import StoreAddress
from dlcloud_trainer.data.splits import Splits
from dlcloud_trainer.parameters import TrainingParameters
from dlcloud_trainer.supervised import Supervised
from dlcloud_trainer.workload import Batch, Measures, Part

DESCRIPTION = "Writes down which samples it is trained on."
DATA = ("builtin://traced",)
BEST_BY = "accuracy"
LOWER_IS_BETTER = False
PRESETS: dict[str, dict[str, Any]] = {}
REFUSED: dict[str, str] = {}
Parameters = TrainingParameters
SAMPLES, HELD_OUT, FEATURES = 110, 30, 12


class Numbers(nn.Module):
    """(n,) int64 -> (n, 3)"""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(FEATURES, 16), nn.BatchNorm1d(16)
        self.dropout, self.last = nn.Dropout(0.2), nn.Linear(16, 3)

    def forward(self, numbers: Tensor) -> Tensor:
        features = torch.sin(numbers.unsqueeze(1) * torch.arange(1, FEATURES + 1) * 0.7)
        return self.last(self.dropout(self.norm(self.first(features))))


class Traced(Supervised):
    def __init__(self, parameters: TrainingParameters, device: torch.device) -> None:
        super().__init__(Numbers(), parameters, device)
        self._prepared: list[int] = []
        # Only what is stepped on counts: the loop's rehearsal prepares a batch, too.
        self.optimizer.register_step_post_hook(lambda *_: self._write())

    def _write(self) -> None:
        with (Path(os.environ["TRACE_DIR"]) / f"{os.environ['RANK']}-{os.getpid()}").open("a") as file:
            file.write(" ".join(map(str, self._prepared)) + "\n")

    def prepare(self, part: Part) -> Part:
        self._prepared = part.batch[0].tolist()
        return part

    def loss(self, model: nn.Module, part: Part) -> Tensor:
        return functional.cross_entropy(model(part.batch[0]), part.batch[1], reduction="sum")

    def measure(self, batch: Batch) -> Measures:
        scores = self.judged(batch[0])
        return {
            "loss": functional.cross_entropy(scores, batch[1], reduction="sum"),
            "accuracy": (scores.argmax(1) == batch[1]).sum(),
        }


def load_data(uri: str, store: StoreAddress, parameters: TrainingParameters) -> Splits[Any]:
    def part(start: int, count: int) -> tuple[Tensor, Tensor]:
        numbers = torch.arange(start, start + count)
        return numbers, numbers % 3

    return Splits(part(0, SAMPLES), part(1000, HELD_OUT), part(2000, HELD_OUT))


def make_task(parameters: TrainingParameters, data: Splits[Any], device: torch.device) -> Traced:
    return Traced(parameters, device)
