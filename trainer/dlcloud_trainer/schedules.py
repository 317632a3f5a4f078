"""The learning rate over a training: a pure function of what is done, so that there is no schedule to save.

May import parameters.
"""

from __future__ import annotations

import math

from .parameters import TrainingParameters


def learning_rate(parameters: TrainingParameters, done: float) -> float:
    """The learning rate after a fraction of the training, 0 to 1."""
    if parameters.schedule == "constant":
        return parameters.learning_rate
    # The first step has a rate, too.
    rise = min(1.0, (done + 0.001) / parameters.warm_up) if parameters.warm_up else 1.0
    left = 1.0 - min(1.0, done)
    fall = 0.5 * (1 + math.cos(math.pi * (1.0 - left))) if parameters.schedule == "cosine" else left
    return parameters.learning_rate * rise * fall
