"""An exponential moving average of a model's weights.

May import torch.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn


class Average:
    """`model`: a copy whose weights follow another's. After t steps the decay is at most (1 + t) / (10 + t), so that
    the first weights are soon forgotten (https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = deepcopy(model).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Follow `model`, `step` steps into the training; running statistics are taken as they are."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
