"""An LSTM as one ONNX operator.

May import torch. `torch.onnx` (2.13) unrolls `nn.LSTM` over the traced length, which is then no longer free; the
operator takes any length, and is what onnxruntime is fast at.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import InvalidInput

OPSET = 14


class OnnxLstm(nn.Module):
    """A one-directional `nn.LSTM`, called with a sequence alone, for export only: torch cannot compute it."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        if lstm.bidirectional or lstm.proj_size or not lstm.bias:
            raise InvalidInput("export: only one-directional LSTMs with biases and without projection can be exported")
        self.hidden_size, self.layers, self.batch_first = lstm.hidden_size, lstm.num_layers, lstm.batch_first
        for layer in range(lstm.num_layers):
            weight_ih, weight_hh, bias_ih, bias_hh = (
                reordered(getattr(lstm, f"{name}_l{layer}").detach())
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            self.register_buffer(f"w{layer}", weight_ih.unsqueeze(0))
            self.register_buffer(f"r{layer}", weight_hh.unsqueeze(0))
            self.register_buffer(f"b{layer}", torch.cat([bias_ih, bias_hh]).unsqueeze(0))

    def forward(self, sequence: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(length, n, features) -> states (length, n, hidden), and the last ones; `batch_first` as in torch."""
        states = sequence.transpose(0, 1) if self.batch_first else sequence
        length, count, size = states.shape[0], states.shape[1], self.hidden_size
        last: list[tuple[Tensor, Tensor]] = []
        for layer in range(self.layers):
            found, state, cell = torch.onnx.ops.symbolic_multi_out(
                "LSTM",
                (states, *(getattr(self, f"{name}{layer}") for name in "wrb")),
                {"hidden_size": size},
                dtypes=(torch.float32,) * 3,
                shapes=((length, 1, count, size), (1, count, size), (1, count, size)),
                version=OPSET,
            )
            states = found.squeeze(1)
            last.append((state, cell))
        ends = torch.cat([state for state, _ in last]), torch.cat([cell for _, cell in last])
        return (states.transpose(0, 1) if self.batch_first else states), ends


def reordered(gates: Tensor) -> Tensor:
    """torch keeps the gates as input, forget, cell, output; ONNX as input, output, forget, cell."""
    i, f, g, o = gates.chunk(4)
    return torch.cat([i, o, f, g])


def with_operators(model: nn.Module) -> nn.Module:
    """The model, in place, with every `nn.LSTM` as an operator."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.LSTM):
            parent, _, last = name.rpartition(".")
            owner = model.get_submodule(parent)
            if isinstance(owner, nn.ModuleList):
                owner[int(last)] = OnnxLstm(module)
            else:
                setattr(owner, last, OnnxLstm(module))
    return model
