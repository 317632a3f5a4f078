"""Telling classes apart: what every classifier has in common.

May import torch, supervised and parameters. The loss is cross-entropy; measured are accuracy, recall and F1 (means over
the classes), and the confusion matrix is told as a table.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from .data.splits import Splits
from .export.exported import Change, Exported, Input, Probabilities, Values, cuts
from .parameters import TrainingParameters
from .supervised import Supervised
from .workload import Batch, Measures, Part


class ClassifierParameters(TrainingParameters):
    """Settings of every classifier."""

    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Part of each label that is spread over all classes, in training."
    )


class Blends(Protocol):
    """A teacher."""

    def blend(self, loss: Tensor, scores: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        """The loss that listens to it as well."""


class Classifier(Supervised):
    """A model from inputs to scores (n, classes); the last tensor of a batch holds the labels, int64 (n,)."""

    def __init__(
        self, model: nn.Module, parameters: ClassifierParameters, data: Splits[Any], device: torch.device
    ) -> None:
        super().__init__(model, parameters, device)
        self.teacher: Blends | None = None
        self._classes, self._label_smoothing = len(data.classes), parameters.label_smoothing
        self._mean, self._deviation = (
            torch.tensor(values, device=device).view(-1, 1, 1) for values in data.normalisation
        )

    def normalize(self, values: Tensor) -> Tensor:
        """The data's values to mean 0 and deviation 1, about, or with faithful those of images from 0 to 1; float32."""
        return (values.float() - self._mean) / self._deviation

    @abstractmethod
    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """A batch as loaded to what the model takes, without augmentation."""

    def scores(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The judged model's scores, float32."""
        scores: Tensor = self.judged(*inputs)
        return scores.float()

    def loss(self, model: nn.Module, part: Part) -> Tensor:
        """Cross-entropy, summed over the prepared samples."""
        *inputs, labels = part.batch
        scores = model(*inputs)
        loss = functional.cross_entropy(scores, labels, reduction="sum", label_smoothing=self._label_smoothing)
        return loss if self.teacher is None else self.teacher.blend(loss, scores, tuple(inputs))

    @property
    def refused_exports(self) -> Mapping[str, str]:
        """See `HandsOver`; nothing is refused."""
        return {}

    def exported(self, data: Splits[Any], change: Change) -> Exported:
        """Images as loaded to the probabilities of the classes; see `HandsOver`."""
        model = change(self.judged)
        low, high = ("0", "255") if data.validation[0].dtype == torch.uint8 else ("its least", "its largest")

        def reference(values: Values) -> Tensor:
            batch = (*(value.to(self.device) for value in values), torch.empty(0))
            return Classifier.scores(self, self.inputs(batch)).softmax(1)

        return Exported(
            module=Probabilities(model, self._mean, self._deviation),
            inputs=(Input("images", f"pixels from {low} to {high} as they are read, (n, channels, height, width)"),),
            output="probabilities",
            output_about="of the classes, (n, classes); the largest is the answer",
            examples=cuts(data.validation[:1]),
            reference=reference,
            weights=model,
            labels=data.classes,
        )

    def measure(self, batch: Batch) -> Measures:
        """Sums of cross-entropy and of right answers, and how often each class (row) was taken for which (column)."""
        labels = batch[-1]
        scores = self.scores(self.inputs(batch))
        pairs = labels * self._classes + scores.argmax(1)
        return {
            "loss": functional.cross_entropy(scores, labels, reduction="sum"),
            "confusion": torch.bincount(pairs, minlength=self._classes**2).view(self._classes, self._classes),
        }

    def describe(self, sums: Measures, count: int) -> dict[str, float]:
        """Loss, accuracy, and recall and F1 as means over the classes that there are."""
        confusion = sums["confusion"]
        right, there, said = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
        known = there > 0
        recall = (right / there)[known].mean()
        f1 = (2 * right / (there + said))[known].mean()
        return {
            "loss": sums["loss"].item() / count,
            "accuracy": right.sum().item() / count,
            "recall": recall.item(),
            "f1": f1.item(),
        }
