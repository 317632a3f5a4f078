"""What the faithful presets' recipes reach in plain PyTorch: the peers of benchmarks.accuracy's faithful rows.

`python -m benchmarks.recipes mlp --mnist file:///data/mnist`: one process, no dlcloud in the training, the last epoch's
weights. `--share` is the first part of the training images that is trained on: 0.9 as the presets, which set the rest
aside, or 1 for all. Only the files are read by dlcloud's reader.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmarks.common import machine_line
from dlcloud_trainer.assignment import StoreAddress
from dlcloud_trainer.parameters import parse_parameters
from dlcloud_trainer.workloads import cnn

BATCH, RATE, EPSILON = 32, 1e-3, 1e-7  # Keras's
WHITE = 255.0
PERCENT = 100.0


@dataclass(frozen=True)
class Recipe:
    """A network, and how often it sees the data."""

    make: Callable[[], nn.Module]
    epochs: int


RECIPES = {
    "mlp": Recipe(lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)), 5),
    "cnn": Recipe(
        lambda: nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5),
            nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 10),
        ),
        10,
    ),
}  # fmt: skip


def trained(recipe: Recipe, images: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """The network after the recipe; images float 0 to 1."""
    torch.manual_seed(seed)
    model = recipe.make()
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, eps=EPSILON)
    for _ in range(recipe.epochs):
        for batch in torch.randperm(len(labels)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """In percent."""
    seen = torch.cat([model(batch).argmax(1) for batch in images.split(1000)])
    return PERCENT * (seen == labels).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", choices=sorted(RECIPES))
    parser.add_argument("--mnist", required=True, help="URI of MNIST's four files")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to N - 1 (default 5)")
    parser.add_argument("--share", type=float, nargs="+", default=[0.9, 1.0], help="of the images (default 0.9 and 1)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)

    data = cnn.load_data(chosen.mnist, StoreAddress(), parse_parameters(cnn, {"preset": "faithful"}))  # type: ignore[arg-type]
    # The preset sets the last tenth aside: put together again they are in the files' order.
    images, labels = (torch.cat(both) for both in zip(data.train, data.validation, strict=True))
    images, test = images.float() / WHITE, data.test.images.float() / WHITE
    print(machine_line())
    print(
        "\n| plain script | images | test set, mean | deviation | worst | epochs | s a run | n |\n" + "| --- " * 8 + "|"
    )
    for name in chosen.recipes:
        for share in chosen.share:
            count = round(share * len(labels))
            began = time.monotonic()
            found = [
                accuracy(trained(RECIPES[name], images[:count], labels[:count], seed), test, data.test.labels)
                for seed in range(chosen.seeds)
            ]
            seconds = (time.monotonic() - began) / len(found)
            spread = f"{statistics.stdev(found):.2f} %" if len(found) > 1 else ""
            print(
                f"| {name} | {count} | {statistics.mean(found):.2f} % | {spread} | {min(found):.2f} % "
                f"| {RECIPES[name].epochs} | {seconds:.0f} | {len(found)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
