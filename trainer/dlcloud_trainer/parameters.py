"""The parameters that all workloads share, and how a job's are read.

May import pydantic. A workload's own class adds to `TrainingParameters` and says in `REFUSED` which of these it cannot
take, and why: one set of words for all, and no setting that is taken and does nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from .errors import InvalidInput

PRESET = "preset"


class TrainingParameters(BaseModel):
    """Parameters of every workload. Descriptions end up in `dlcloud validate` and the docs."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, strict=True, allow_inf_nan=False
    )

    preset: Literal["default", "faithful", "best"] = Field(
        "default",
        description="Settings for all that is not given: the workload's own, those of the literature, or the most "
        "accurate.",
    )
    epochs: int = Field(10, ge=1, le=100_000, description="Passes over the training data.")
    batch_size: int = Field(64, ge=1, le=65_536, description="Samples of one optimiser step, over all ranks together.")
    learning_rate: float = Field(0.001, gt=0, le=10, description="Highest learning rate.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="cosine, linear: rises over `warmUp` of the training, then falls to 0; constant: stays."
    )
    warm_up: float = Field(
        0.05, ge=0, lt=1, description="Part of the training over which a learning rate that falls rises before."
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Seed of weights, data order, dropout and augmentation.")
    validation: Literal["stratified", "last"] = Field(
        "stratified",
        description="The part of the training data that is set aside: as many of each class, or the last 10 %.",
    )
    log_every_steps: int = Field(10, ge=1, le=1_000_000, description="Steps between two training records.")
    optimizer: Literal["adamw", "adam", "rmsprop", "sgd"] = Field(
        "adamw", description="adamw: weight decay beside the gradient; sgd: with Nesterov momentum 0.9 (`momentum`)."
    )
    epsilon: float = Field(1e-8, gt=0, le=1, description="Added to the denominator of Adam's and RMSprop's step.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of sgd: Nesterov momentum, 0 for none.")
    weight_decay: float = Field(0.0, ge=0, le=1, description="Weight decay; adamw's is decoupled from the gradient.")
    clip_norm: float = Field(0.0, ge=0, le=1e6, description="Largest norm of all gradients together; 0: any.")
    accumulate: int = Field(
        1, ge=1, le=1024, description="Pieces a rank's part of a batch is computed in, one after another: less memory."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16: matrix products and convolutions in mixed precision; weights stay float32."
    )
    ema: float = Field(
        0.0, ge=0, lt=1, description="Decay per step of an average of the weights that is measured instead; 0: none."
    )
    patience: int = Field(
        0,
        ge=0,
        le=100_000,
        description="Epochs without a better validation after which training ends, with the best weights; 0: never.",
    )
    start_from: str = Field(
        "",
        alias="from",
        max_length=1024,
        description="A job's prefix, or one manifest, whose weights a new training begins with (fine-tuning).",
    )
    new_head: str = Field(
        "",
        max_length=1024,
        description="Patterns (`dense2.*`, by commas) of the weights that `from` does not give: they begin fresh.",
    )
    freeze: str = Field(
        "", max_length=1024, description="Patterns (`conv*`, by commas) of the weights that are not trained."
    )
    unfreeze_epoch: int = Field(
        0, ge=0, le=100_000, description="Epochs after which what is frozen is trained as well; 0: never."
    )
    unfreeze_learning_rate: float = Field(
        0.0, ge=0, le=10, description="Highest learning rate of what was frozen; 0: the same as `learningRate`."
    )


class HasParameters(Protocol):
    """What of a workload is needed to read its parameters."""

    @property
    def Parameters(self) -> type[TrainingParameters]: ...  # noqa: N802

    PRESETS: Mapping[str, Mapping[str, Any]]  # settings by the preset's name, as a job would give them
    REFUSED: Mapping[str, str]  # shared parameters (as a job gives them) that do not apply, each with the reason


def names_of(workload: HasParameters) -> dict[str, str]:
    """The parameters a job may give: their fields by the names they have in a manifest, sorted."""
    fields = workload.Parameters.model_fields
    given = {field.alias or to_camel(name): name for name, field in fields.items()}
    return {name: given[name] for name in sorted(given) if name not in workload.REFUSED}


def parse_parameters(workload: HasParameters, given: Mapping[str, Any]) -> TrainingParameters:
    """The workload's parameters: its preset's, where the job does not say otherwise. Raises `InvalidInput` naming the
    first wrong one."""
    fields, known = workload.Parameters.model_fields, names_of(workload)
    for name, reason in workload.REFUSED.items():
        field = next(field for field, about in fields.items() if name == (about.alias or to_camel(field)))
        if name in given and given[name] != fields[field].default:
            raise InvalidInput(f"parameters.{name}: it does not apply here: {reason}; leave it out")
    settings = {**workload.PRESETS.get(str(given.get(PRESET)), {}), **given}
    try:
        return workload.Parameters.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise InvalidInput(
                f"parameters.{name}: there is no such parameter; allowed are {', '.join(known)}"
            ) from None
        problem = first["msg"].removeprefix("Value error, ")
        if not name:  # two that do not go together
            raise InvalidInput(f"parameters.{problem}") from None
        problem = problem[0].lower() + problem[1:]
        raise InvalidInput(f"parameters.{name}: {first['input']!r} is not allowed: {problem}") from None
