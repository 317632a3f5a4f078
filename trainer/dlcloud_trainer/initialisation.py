"""Weights to begin with, as Keras draws them.

May import torch.
"""

from __future__ import annotations

from torch import nn

LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def begin_as_keras(model: nn.Module) -> nn.Module:
    """Glorot's uniform distribution for the weights of dense and convolutional layers, zero for their biases; from
    torch's default generator."""
    for layer in model.modules():
        if isinstance(layer, LAYERS):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return model
