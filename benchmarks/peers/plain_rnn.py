"""The rnn as one writes it in plain PyTorch, in one file: its peer in benchmarks.throughput.

`python -m benchmarks.peers.plain_rnn DATA.pt EPOCHS KIND`: reads the training tensors (tokens int32, lengths, labels;
or images uint8, labels), prints one JSON line: samples per second and the largest resident size of this process. With
WORLD_SIZE above 1 it trains under DDP. No checkpoints, no reports, no evaluation; what is measured is from the end of
an epoch's first step to that of its last but one, without the first epoch.
"""

import math
import os
import sys
import time

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.peers.measured import report

EPOCHS, KIND = int(sys.argv[2]), sys.argv[3]
BATCH, RATE, EPSILON = {"lstm": (32, 1e-3, 1e-7), "rows": (64, 3e-3, 1e-8), "bigrams": (256, 1e-2, 1e-8)}[KIND]
RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
WORDS, BUCKETS = 10_002, 2**20


class Reader(nn.Module):
    """An LSTM over words, judged by its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 32, padding_idx=0)
        self.lstm = nn.LSTM(32, 128, batch_first=True)
        self.dropout, self.dense = nn.Dropout(0.5), nn.Linear(128, 2)

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(self.embedding(tokens))
        return self.dense(self.dropout(states[torch.arange(len(tokens)), lengths - 1]))


class Rows(nn.Module):
    """An LSTM over the rows of images, judged by the largest of its states."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(28, 128, batch_first=True)
        self.dropout, self.dense = nn.Dropout(0.5), nn.Linear(128, 10)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(rows)
        return self.dense(self.dropout(states.amax(1)))


class Bigrams(nn.Module):
    """A weight for each word and each hashed pair of words that a text has."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Embedding(WORDS + BUCKETS, 2, padding_idx=0)
        nn.init.zeros_(self.weights.weight)
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        pairs = WORDS + (tokens[:, :-1] * 2_654_435_761 + tokens[:, 1:] * 1_000_003) % BUCKETS
        features = torch.cat([tokens, pairs.masked_fill(tokens[:, 1:] == 0, 0)], 1).sort(1).values
        features[:, 1:].masked_fill_(features[:, 1:] == features[:, :-1].clone(), 0)
        count = (features != 0).sum(1, keepdim=True)
        return self.weights(features).sum(1) / count.sqrt() + self.bias


def inputs(data: list[torch.Tensor], mine: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What the model takes: rows; or tokens up to the longest text's end, for the LSTM with their lengths."""
    if KIND == "rows":
        return ((data[0][mine, 0].float() - 33.3) / 78.6,)
    lengths = data[1][mine]
    tokens = data[0][mine, : int(lengths.max())].long()
    return (tokens, lengths) if KIND == "lstm" else (tokens,)


def main() -> None:
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    data = torch.load(sys.argv[1])
    labels = data[-1]
    model: nn.Module = {"lstm": Reader, "rows": Rows, "bigrams": Bigrams}[KIND]()
    if WORLD > 1:
        dist.init_process_group("gloo")
        model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    kind = torch.optim.Adam if KIND == "lstm" else torch.optim.AdamW
    optimizer = kind(model.parameters(), lr=RATE, eps=EPSILON, weight_decay=0, fused=True)
    steps = EPOCHS * math.ceil(len(labels) / BATCH)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if KIND != "lstm" else None
    smoothing = 0.2 if KIND == "bigrams" else 0.0
    ends: list[list[tuple[float, int]]] = []
    for _ in range(EPOCHS):
        ends.append([])
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(len(ends)))
        for batch in order.split(BATCH):
            mine = batch.tensor_split(WORLD)[RANK]
            loss = F.cross_entropy(model(*inputs(data, mine)), labels[mine], label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            ends[-1].append((time.perf_counter(), len(batch)))
    report(ends)


if __name__ == "__main__":
    main()
