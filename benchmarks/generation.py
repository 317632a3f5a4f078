"""How good the images of `gan` are, for each kind and several seeds: `python -m benchmarks.generation --data URI`.

Two figures of 10,000 generated images, both by a classifier of our own (`cnn`, preset best, at least 99.5 % right on
the test images): the Fréchet distance of its last features from those of the test images, beside the floor, which is
that of training images; and the share of each digit it sees. Trainings run on real ranks without an operator. Finished
seeds are kept in the file that --results names; a training that was broken off goes on from its checkpoint beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import machine_line, write_between
from benchmarks.ranks import RankServer
from dlcloud_trainer.assignment import StoreAddress
from dlcloud_trainer.data import Images, Splits
from dlcloud_trainer.finetune import read_weights, weights_of
from dlcloud_trainer.frechet import frechet_distance, moments
from dlcloud_trainer.parameters import parse_parameters
from dlcloud_trainer.workloads import cnn, gan

CPU = torch.device("cpu")
PRELUDE = "import dlcloud_trainer.workloads.gan"
LIMIT_S = 24 * 3600.0
BATCH = 500
NOISE_SEED = 2024  # of the generated images: neither training nor its measures draw from it
LEAST_SHARE = 0.05  # of each digit
PASSED_ON = ("epochs", "width", "batch_size", "precision")


class Figures:
    """What was measured so far, in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.values: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    def keep(self, name: str, value: Any) -> None:
        """Add a figure: the file is whole at any time."""
        self.values[name] = value
        draft = self._file.with_suffix(".draft")
        draft.write_text(json.dumps(self.values, indent=1, sort_keys=True) + "\n")
        draft.replace(self._file)


class Judge:
    """A trained classifier: what it sees in images, bytes (n, channels, height, width)."""

    def __init__(self, uri: str, data: Splits[Images]) -> None:
        self._task = cnn.make_task(parse_parameters(cnn, {"preset": "best"}), data, CPU)  # type: ignore[arg-type]
        self._task.model.load_state_dict(weights_of("model", read_weights(uri, StoreAddress(), warn)))
        self._task.model.eval()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, features), and the digits they are taken for (n,)."""
        model = self._task.model
        assert isinstance(model, nn.Sequential)
        features = torch.cat([model[:-1](self._task.normalize(batch)) for batch in images.split(BATCH)])
        return features, model[-1](features).argmax(1)

    def accuracy(self, images: Images) -> float:
        """Part of the images that are taken for what they are."""
        return (self(images.images)[1] == images.labels).double().mean().item()


@dataclass(frozen=True)
class Bench:
    """Where trainings run and leave their checkpoints."""

    server: RankServer
    folder: Path
    data: str
    ranks: int

    def train(self, name: str, workload: str, parameters: dict[str, Any]) -> tuple[str, float | None]:
        """Train to the end, from where an earlier run was broken off; the checkpoint's prefix, and the seconds when it
        was done in one go."""
        place = self.folder / name
        fresh = not place.exists()
        place.mkdir(parents=True, exist_ok=True)
        uri = f"file://{place.resolve()}/"
        plan = {"uri": uri, "everySeconds": 60, "keepLast": 1, "keepBest": 0}
        job = {"workload": workload, "parameters": parameters, "data": {"uri": self.data}, "checkpoint": plan}
        began = time.monotonic()
        # A round's number is higher than those before, which may have been another process's.
        ranks = self.server.start_round(job, world_size=self.ranks, round=int(time.time()))
        codes = [rank.wait(LIMIT_S) for rank in ranks]
        if any(codes):
            raise SystemExit(f"{name}: exit codes {codes}\n{ranks[0].log}")
        return uri, time.monotonic() - began if fresh else None


def warn(text: str) -> None:
    """A checkpoint's damage, told."""
    print(text, file=sys.stderr)


def generated(uri: str, parameters: dict[str, Any], data: Splits[Any], count: int) -> Iterator[Tensor]:
    """Images of a trained generator, as bytes, in batches; of its average where it has one."""
    read = parse_parameters(gan, parameters)
    assert isinstance(read, gan.Parameters)
    model = gan.build_generator(tuple(data.train.images.shape[1:]), read)
    saved = read_weights(uri, StoreAddress(), warn)
    model.load_state_dict(weights_of("generator", saved))
    model.eval()
    noise = torch.randn(count, read.noise, generator=torch.Generator().manual_seed(NOISE_SEED))
    with torch.no_grad():
        for batch in noise.split(BATCH):
            yield ((model(batch) + 1) * 127.5).round().to(torch.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="URI of MNIST's four files: file:///folder or s3://bucket/prefix")
    parser.add_argument(
        "--results", type=Path, default=Path("generation.json"), help="figures; checkpoints lie beside it"
    )
    parser.add_argument("--kinds", nargs="+", default=["dcgan", "wgan", "wgan-gp"], help="default: all three")
    parser.add_argument("--preset", default="best")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to N - 1 (default 3)")
    parser.add_argument("--ranks", type=int, default=2, help="processes that train together (default 2)")
    parser.add_argument("--images", type=int, default=10_000, help="generated images (default 10000)")
    parser.add_argument("--epochs", type=int, help="instead of the preset's")
    parser.add_argument("--width", type=int, help="instead of the preset's")
    parser.add_argument("--batch-size", type=int, help="instead of the preset's")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], help="instead of the preset's")
    parser.add_argument("--classifier", help="prefix of a finished cnn job with preset best, instead of training one")
    parser.add_argument("--least-accuracy", type=float, default=0.995, help="of the classifier (default 0.995)")
    parser.add_argument("--write", type=Path, help="a Markdown file whose part between two marks becomes the table")
    chosen = parser.parse_args()

    chosen.results.parent.mkdir(parents=True, exist_ok=True)
    figures = Figures(chosen.results)
    given = {parameter: getattr(chosen, parameter) for parameter in PASSED_ON if getattr(chosen, parameter)}
    names = {"batch_size": "batchSize"}
    settings = {"preset": chosen.preset} | {names.get(name, name): value for name, value in given.items()}
    print(machine_line(), flush=True)
    with tempfile.TemporaryDirectory() as folder, RankServer(Path(folder), prelude=PRELUDE) as server:
        bench = Bench(server, chosen.results.with_suffix(""), chosen.data, chosen.ranks)
        classifier = chosen.classifier or bench.train("classifier", "cnn", {"preset": "best"})[0]
        data = cnn.load_data(chosen.data, StoreAddress(), parse_parameters(cnn, {}))
        judge = Judge(classifier, data)
        count = min(chosen.images, len(data.test.images), len(data.train.images))
        wanted = judge_test(judge, data, count, chosen.least_accuracy, figures)
        runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in chosen.kinds}
        for kind in chosen.kinds:
            for seed in range(chosen.seeds):
                name = "-".join([kind, chosen.preset, *(f"{key}{value}" for key, value in given.items()), str(seed)])
                if name not in figures.values:
                    parameters = settings | {"kind": kind, "seed": seed}
                    uri, seconds = bench.train(name, "gan", parameters)
                    images = torch.cat(list(generated(uri, parameters, data, count)))
                    figures.keep(name, judged(judge, images, wanted, seconds))
                runs[kind].append(figures.values[name])
                print(f"{name}: {json.dumps(figures.values[name])}", flush=True)
    text = table(figures.values["classifier"], runs, count)
    print(f"\n{text}")
    if chosen.write is not None:
        write_between(chosen.write, "generation", text)


def judge_test(judge: Judge, data: Splits[Images], count: int, least: float, figures: Figures) -> Tensor:
    """The moments of the test images' features; keeps the classifier's accuracy and the floor."""
    accuracy = judge.accuracy(data.test)
    if accuracy < least:
        raise SystemExit(f"the classifier is right on {accuracy:.2%} of the test images, and must be on {least:.2%}")
    chosen = torch.randperm(len(data.train.images), generator=torch.Generator().manual_seed(NOISE_SEED))[:count]
    wanted = moments(judge(data.test.images[:count])[0])
    floor = frechet_distance(moments(judge(data.train.images[chosen])[0]), wanted, count)
    figures.keep("classifier", {"accuracy": accuracy, "floor": floor})
    return wanted


def judged(judge: Judge, images: Tensor, wanted: Tensor, seconds: float | None) -> dict[str, Any]:
    """The figures of one generator."""
    features, digits = judge(images)
    shares = torch.bincount(digits, minlength=10).double() / len(digits)
    distance = frechet_distance(moments(features), wanted, len(images))
    return {"distance": distance, "shares": [round(share, 4) for share in shares.tolist()], "seconds": seconds}


def table(about: dict[str, float], runs: dict[str, list[dict[str, Any]]], count: int) -> str:
    """One row for each kind."""
    lines = [
        f"{machine_line()}; classifier {about['accuracy']:.2%}, {count} images",
        "",
        "| kind | Fréchet distance, mean | deviation | rarest digit | n | seconds |",
        "| --- | --- | --- | --- | --- | --- |",
        f"| training images (floor) | {about['floor']:.3f} | | | | |",
    ]
    for kind, own in runs.items():
        distances = [run["distance"] for run in own]
        spread = f"{statistics.stdev(distances):.3f}" if len(own) > 1 else ""
        rarest = min(min(run["shares"]) for run in own)
        known = [run["seconds"] for run in own if run["seconds"] is not None]
        seconds = f"{statistics.mean(known):.0f}" if known else ""
        missed = "" if rarest >= LEAST_SHARE else f" (less than {LEAST_SHARE:.0%})"
        cells = (kind, f"{statistics.mean(distances):.3f}", spread, f"{rarest:.1%}{missed}", str(len(own)), seconds)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
