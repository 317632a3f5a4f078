"""Classifiers that read sequences, as they are handed over: texts as tokens and lengths, or images row by row.

May import torch and this package.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from .exported import BATCH, Exported, Input, Normalized, Values, cuts
from .lstm import with_operators

LENGTH = "length"
NO_STATIC = "onnxruntime has no LSTM with fixed ranges; give quantize: dynamic"


class TextProbabilities(nn.Module):
    """Tokens and lengths to the probabilities of the classes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """(n, length), (n,) -> (n, classes)."""
        return torch.softmax(self.model(tokens.long(), lengths), 1)


class RowProbabilities(Normalized):
    """Grey images, row by row, to the probabilities of the classes; normalisation in front."""

    def forward(self, images: Tensor) -> Tensor:
        """(n, 1, height, width) -> (n, classes)."""
        rows = self.normalize(images).squeeze(1)
        lengths = torch.zeros_like(images[:, 0, 0, 0], dtype=torch.int64) + rows.shape[1]
        return torch.softmax(self.model(rows, lengths), 1)


def text_export(
    model: nn.Module,
    tokens: Tensor,
    lengths: Tensor,
    reference: Callable[[Values], Tensor],
    labels: tuple[str, ...],
    vocabulary: tuple[str, ...],
) -> Exported:
    """Of a model on the CPU that takes tokens and lengths; `tokens` and `lengths` are some samples."""
    longest = tokens.shape[1]
    free = {0: BATCH, 1: LENGTH} if longest > 3 else {0: BATCH}
    return Exported(
        module=TextProbabilities(with_operators(deepcopy(model))),
        inputs=(
            Input(
                "tokens",
                "words by their places in the vocabulary, 0 where a text is over, 1 for a word that is not in it, "
                "(n, length)",
                free,
            ),
            Input("lengths", "words of each text, from 1 on, (n,)"),
        ),
        output="probabilities",
        output_about="of the classes, (n, classes); the largest is the answer",
        examples=(*cuts((tokens, lengths)), *([halved(tokens, lengths)] if longest > 3 else [])),
        reference=reference,
        weights=model,
        labels=labels,
        vocabulary=vocabulary,
    )


def halved(tokens: Tensor, lengths: Tensor) -> Values:
    """Five texts cut to half of the length."""
    half = tokens.shape[1] // 2
    return tokens[:5, :half].cpu(), lengths[:5].clamp(max=half).cpu()
