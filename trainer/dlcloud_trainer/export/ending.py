"""The end of a job with `export`: what rank 0 does after the test, while the others wait.

May import the rest of this package, and what the loop has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..assignment import Job
from ..data.splits import Splits
from ..judging import set_training
from ..objects import Objects
from ..parameters import TrainingParameters
from ..progress import Ledger, finite_or_none
from ..workload import Task, Workload
from .about import data_hash
from .card import Facts
from .compression import Compression
from .exported import HandsOver
from .handover import hand_over

EXPORT_LIMIT_S = 1800.0  # the ranks that wait say so for as long; an export takes seconds


def export(task: Task, data: Splits[Any], compression: Compression, facts: Facts, store: Objects) -> None:
    """Hand the model over; raises what `hand_over` raises."""
    assert isinstance(task, HandsOver) and compression.plan is not None
    set_training(task, False)
    hand_over(task, data, compression.plan, facts, compression.smaller, store)


def facts_of(
    job: Job,
    workload: Workload,
    parameters: TrainingParameters,
    data: Splits[Any],
    ledger: Ledger,
    means: Mapping[str, Mapping[str, float]],
) -> Facts:
    """What the card says of a job at its end."""
    assert job.checkpoint is not None
    return Facts(
        name=job.name,
        namespace=job.namespace,
        uid=job.uid,
        workload=job.workload,
        description=workload.DESCRIPTION,
        parameters=parameters.model_dump(mode="json", by_alias=True),
        step=ledger.step,
        samples=ledger.samples,
        checkpoint=job.checkpoint.uri,
        metrics=finite(means),
        data={"uri": job.data_uri, "sha256": data_hash(data), "samples": counts(data)},
    )


def counts(data: Splits[Any]) -> dict[str, int]:
    """Samples of each part."""
    return {"train": len(data.train[0]), "validation": len(data.validation[0]), "test": len(data.test[0])}


def finite(means: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Without what JSON has no word for."""
    return {
        part: {name: value for name, value in found.items() if finite_or_none(value) is not None}
        for part, found in means.items()
    }
