"""Weights to begin with, as Keras draws them.

May import torch.
"""

from __future__ import annotations

import torch
from torch import nn

FORGET_BIAS = 1.0
EMBEDDED = 0.05
LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def begin_as_keras(model: nn.Module) -> nn.Module:
    """Glorot's uniform distribution for the weights of dense, convolutional and LSTM layers, orthogonal ones between an
    LSTM's states, zero for biases, 1 for those of forget gates; embeddings are uniform. From torch's default
    generator."""
    for layer in model.modules():
        if isinstance(layer, LAYERS):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LSTM):
            _begin_lstm(layer)
        elif isinstance(layer, nn.Embedding):
            nn.init.uniform_(layer.weight, -EMBEDDED, EMBEDDED)
            if layer.padding_idx is not None:
                with torch.no_grad():
                    layer.weight[layer.padding_idx] = 0
    return model


def _begin_lstm(lstm: nn.LSTM) -> None:
    """Torch has two biases that only ever add up, Keras has one: the second one stays 0 and is not trained."""
    for name, weights in lstm.named_parameters():
        if name.startswith("weight_ih"):
            nn.init.xavier_uniform_(weights)
        elif name.startswith("weight_hh"):
            nn.init.orthogonal_(weights)
        else:
            nn.init.zeros_(weights)
        if name.startswith("bias_ih"):
            nn.init.constant_(weights[lstm.hidden_size : 2 * lstm.hidden_size], FORGET_BIAS)  # the second of four gates
        if name.startswith("bias_hh"):
            weights.requires_grad_(False)
