"""An LSTM as the one ONNX operator that knows where each sequence ends.

May import torch. `torch.onnx` unrolls `nn.LSTM` over the traced length (torch 2.13: the length is then no longer free)
and cannot trace packed sequences at all; the operator has an input for lengths, and is what onnxruntime is fast at.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

OPSET = 14


class OnnxLstm(nn.Module):
    """A one-directional `nn.LSTM` of one or more layers without projection, `batch_first`, for export only."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        if lstm.bidirectional or lstm.proj_size or not lstm.batch_first or not lstm.bias:
            raise ValueError("only a one-directional LSTM with biases, batch_first and no projection can be exported")
        self.hidden_size, self.layers = lstm.hidden_size, lstm.num_layers
        for layer in range(lstm.num_layers):
            named = {
                name: getattr(lstm, f"{name}_l{layer}").detach()
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            }
            biases = torch.cat([reordered(named["bias_ih"]), reordered(named["bias_hh"])])
            self.register_buffer(f"w{layer}", reordered(named["weight_ih"]).unsqueeze(0).clone())
            self.register_buffer(f"r{layer}", reordered(named["weight_hh"]).unsqueeze(0).clone())
            self.register_buffer(f"b{layer}", biases.unsqueeze(0).clone())

    def forward(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(n, length, features), int64 (n,) -> all states (n, length, hidden), 0 after each end, and the last one
        before it (n, hidden)."""
        count, length = values.shape[0], values.shape[1]
        size, row = self.hidden_size, values.transpose(0, 1)
        last = values
        for layer in range(self.layers):
            states, last, _ = torch.onnx.ops.symbolic_multi_out(
                "LSTM",
                (row, *(getattr(self, f"{name}{layer}") for name in "wrb"), lengths.to(torch.int32)),
                {"hidden_size": size},
                dtypes=(torch.float32,) * 3,
                shapes=((length, 1, count, size), (1, count, size), (1, count, size)),
                version=OPSET,
            )
            row = states.squeeze(1)
        return row.transpose(0, 1), last[0]


def reordered(gates: Tensor) -> Tensor:
    """torch keeps the gates as input, forget, cell, output; ONNX as input, output, forget, cell."""
    i, f, g, o = gates.chunk(4)
    return torch.cat([i, o, f, g])
