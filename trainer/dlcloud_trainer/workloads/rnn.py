"""`rnn`: tells what a review says, by an LSTM over its words or a linear model of its words and word pairs; or reads
images row by row. Parameters, models, loss and measures in one file.

May import torch, pydantic and the package's modules for data and tasks. Texts are tokens int32 (n, length) with lengths
int64 (n,), images uint8 (n, 1, height, width); labels int64 (n,).
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..assignment import StoreAddress
from ..checkpoint import Stateful
from ..classification import Classifier, ClassifierParameters
from ..data import DIGITS_URI, Splits, load_grey_images
from ..data.text import load_texts
from ..data.words import PADDING, UNKNOWN, Vocabulary
from ..errors import InvalidInput
from ..export.exported import Change, Exported, Values
from ..export.lstm import with_operators
from ..export.sequences import NO_STATIC, RowProbabilities, text_export
from ..finetune import read_state
from ..initialisation import begin_as_keras
from ..workload import Batch, Part

DESCRIPTION = "An LSTM that tells positive reviews from negative ones, or reads images row by row."
DATA = (DIGITS_URI, "s3://", "file://")
BEST_BY = "accuracy"
LOWER_IS_BETTER = False
FAITHFUL = {"batchSize": 32, "learningRate": 0.001, "schedule": "constant", "optimizer": "adam", "epsilon": 1e-7}
PRESETS: dict[str, dict[str, Any]] = {
    "faithful": {**FAITHFUL, "length": 500, "pooling": "max", "epochs": 10, "patience": 2, "validation": "last"},
    "best": {
        "batchSize": 128,
        "bidirectional": True,
        "ema": 0.998,
        "embedding": 128,
        "epochs": 8,
        "hidden": 64,
        "labelSmoothing": 0.1,
        "learningRate": 0.004,
        "length": 500,
        "vocabulary": 20_000,
        "wordDropout": 0.5,
    },
}
REFUSED: dict[str, str] = {}
VOCABULARY = "vocabulary"
NOT_OF_KIND = {
    "lstm": ("buckets",),
    "rows": ("vocabulary", "length", "keep", "embedding", "word_dropout", "buckets"),
    "bigrams": ("embedding", "hidden", "bidirectional", "pooling", "dropout"),
}
OF_KIND: dict[str, dict[str, Any]] = {  # what suits a kind, where the job does not say otherwise
    "lstm": {},
    "rows": {"epochs": 20},
    "bigrams": {"length": 1000, "batchSize": 256, "epochs": 5, "learningRate": 0.01, "labelSmoothing": 0.2},
}
FACTORS = (2_654_435_761, 1_000_003)  # of a pair's two tokens; with a million words a product stays below 2 ** 63


class Parameters(ClassifierParameters):
    """Settings of `rnn`."""

    kind: Literal["lstm", "bigrams", "rows"] = Field(
        "lstm",
        description="lstm: over a review's words; bigrams: linear, of the words and word pairs that a review has, with "
        "batchSize 256, epochs 5, learningRate 0.01 and labelSmoothing 0.2 unless given; rows: over the rows of grey "
        "images, for data without text, with epochs 20.",
    )
    vocabulary: int = Field(
        10_000, ge=1, le=1_000_000, description="Words that are told apart: the most frequent of the training part."
    )
    length: int = Field(
        200, ge=1, le=100_000, description="Words that are read of a review, the rest is cut off; of bigrams 1000."
    )
    keep: Literal["end", "start"] = Field("end", description="Which end of a longer review is read.")
    embedding: int = Field(32, ge=1, le=4096, description="Width of the vectors that words become.")
    hidden: int = Field(128, ge=1, le=4096, description="Width of the LSTM's state.")
    bidirectional: bool = Field(False, description="A second LSTM reads from the end to the start.")
    pooling: Literal["last", "max", "mean"] = Field(
        "max", description="What of the LSTM's states is judged: the one after the last word, or all, word by word."
    )
    epochs: int = Field(3, ge=1, le=100_000, description="Passes over the training data.")
    learning_rate: float = Field(0.003, gt=0, le=10, description="Highest learning rate.")
    dropout: float = Field(0.5, ge=0, lt=1, description="Part of what is judged that is dropped.")
    word_dropout: float = Field(0.0, ge=0, lt=1, description="Part of the words that training replaces by unknown.")
    buckets: int = Field(
        2**20, ge=1, le=2**24, description="Of bigrams: weights that word pairs are spread over by a hash."
    )

    @model_validator(mode="before")
    @classmethod
    def fill_in(cls, given: Any) -> Any:
        """What suits the kind, in the place of what is not given."""
        if not isinstance(given, dict) or given.get("kind") not in OF_KIND:
            return given
        fields = {field.alias: name for name, field in cls.model_fields.items()}
        own = OF_KIND[given["kind"]]
        return {**{name: value for name, value in own.items() if fields[name] not in given}, **given}

    @model_validator(mode="after")
    def check_kind(self) -> Parameters:
        """No setting is taken that does nothing."""
        for name in NOT_OF_KIND[self.kind]:
            field = type(self).model_fields[name]
            value = getattr(self, name)
            if value != field.default:
                if PRESETS.get(self.preset, {}).get(str(field.alias)) == value:
                    raise ValueError(f"preset: {self.preset} is one for kind lstm, not {self.kind}; leave it out")
                raise ValueError(f"{field.alias}: it does not apply to kind {self.kind}; leave it out")
        return self


class Rnn(Classifier):
    """The task: see `Task` of the workload module."""

    def __init__(self, parameters: Parameters, data: Splits[Any], device: torch.device) -> None:
        self._kind, self._word_dropout = parameters.kind, parameters.word_dropout
        self._vocabulary = Vocabulary(data.vocabulary) if data.vocabulary else None
        super().__init__(build(parameters, data), parameters, data, device)

    @property
    def parts(self) -> Mapping[str, Stateful]:
        """Model, optimiser, average, and the words that the model's weights belong to."""
        return super().parts if self._vocabulary is None else {**super().parts, VOCABULARY: self._vocabulary}

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Tokens (n, longest) and lengths; or rows (n, height, width), as many of each image."""
        if self._kind == "rows":
            rows = self.normalize(batch[0]).squeeze(1)
            return rows, torch.full((len(rows),), rows.shape[1], device=rows.device)
        tokens, lengths, _ = batch
        return tokens[:, : int(lengths.max())].long(), lengths

    @property
    def refused_exports(self) -> Mapping[str, str]:
        """See `HandsOver`."""
        if self._kind == "bigrams":
            return {"quantize: static": "its weights are one table; give quantize: dynamic"}
        return {"quantize: static": NO_STATIC}

    def exported(self, data: Splits[Any], change: Change) -> Exported:
        """Tokens and lengths, or images, to the probabilities of the classes; see `HandsOver`."""
        if self._kind == "rows":
            usual = super().exported(data, change)
            module = RowProbabilities(with_operators(deepcopy(usual.weights)), self._mean, self._deviation)
            return replace(usual, module=module)
        tokens, lengths, _ = data.validation

        def reference(values: Values) -> Tensor:
            batch = (*(value.to(self.device) for value in values), torch.empty(0))
            return self.scores(self.inputs(batch)).softmax(1)

        return text_export(change(self.judged), tokens, lengths, reference, data.classes, data.vocabulary)

    def prepare(self, part: Part) -> Part:
        """The same, with words left out when the job asks for it."""
        inputs, lengths = self.inputs(part.batch)
        if self._word_dropout:
            left_out = (torch.rand(inputs.shape, device=inputs.device) < self._word_dropout) & (inputs != PADDING)
            inputs = inputs.masked_fill(left_out, UNKNOWN)
        return part.replaced(inputs, lengths, part.batch[-1])


def load_data(uri: str, store: StoreAddress, parameters: Parameters) -> Splits[Any]:
    """Reviews with their vocabulary, or images; see `Workload.load_data`. What begins with another job's weights takes
    its vocabulary, too: they belong to words."""
    if parameters.kind == "rows":
        return load_grey_images(uri, store, parameters)
    if uri == DIGITS_URI:
        raise InvalidInput(f"data.uri: {uri} has no text; give reviews at s3://bucket/prefix, or kind: rows")
    vocabulary: int | list[str] = parameters.vocabulary
    if parameters.start_from:
        vocabulary = read_state(parameters.start_from, store, VOCABULARY)["words"]
    return load_texts(
        uri,
        store,
        vocabulary=vocabulary,
        length=parameters.length,
        keep=parameters.keep,
        validation=parameters.validation,
    )


def make_task(parameters: Parameters, data: Splits[Any], device: torch.device) -> Rnn:
    """Model and optimiser with fresh weights."""
    return Rnn(parameters, data, device)


def build(parameters: Parameters, data: Splits[Any]) -> nn.Module:
    """The model of the chosen kind."""
    classes, words = len(data.classes), len(data.vocabulary)
    if parameters.kind == "bigrams":
        return Bigrams(words, parameters.buckets, classes)
    if parameters.kind == "rows":
        return begin_as_keras(Reader(nn.Identity(), data.train.images.shape[-1], parameters, classes))
    embedding = nn.Embedding(words, parameters.embedding, padding_idx=PADDING)
    return begin_as_keras(Reader(embedding, parameters.embedding, parameters, classes))


class Reader(nn.Module):
    """Tokens (n, length) or rows (n, length, width), and how many of each count (n,) -> scores (n, classes).

    Sequences are padded at their end and never packed: what comes after a sequence's end cannot change the states
    before, and only those are judged. So the one fast kernel that computes whole batches does it all; packed sequences
    would take a slow one. The second LSTM gets each sequence turned around within its own length.
    """

    def __init__(self, embedding: nn.Module, width: int, parameters: Parameters, classes: int) -> None:
        super().__init__()
        self._pooling = parameters.pooling
        directions = 2 if parameters.bidirectional else 1
        self.embedding = embedding
        self.lstm = nn.ModuleList(nn.LSTM(width, parameters.hidden) for _ in range(directions))
        self.dropout = nn.Dropout(parameters.dropout)
        self.dense = nn.Linear(directions * parameters.hidden, classes)

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """Scores."""
        sequence = self.embedding(inputs.transpose(0, 1))  # (length, n, width): the kernel's own order
        features: list[Tensor] = []
        for lstm in self.lstm:
            if features:
                sequence = turned(sequence, lengths)
            features.append(self._pool(read(lstm, sequence), lengths))
        scores: Tensor = self.dense(self.dropout(torch.cat(features, 1)))
        return scores

    def _pool(self, states: Tensor, lengths: Tensor) -> Tensor:
        """States (length, n, hidden) of which the first `lengths` count -> (n, hidden)."""
        if self._pooling == "last":
            last = (lengths - 1).view(1, -1, 1).expand(1, -1, states.shape[2])
            return states.gather(0, last).squeeze(0)
        counts = (torch.arange(states.shape[0], device=states.device).unsqueeze(1) < lengths).unsqueeze(2)
        if self._pooling == "max":
            return states.masked_fill(~counts, float("-inf")).amax(0)
        return (states * counts).sum(0) / lengths.unsqueeze(1)


def read(lstm: nn.Module, sequence: Tensor) -> Tensor:
    """All states; on a CPU in float32 always, because many have no kernel for an LSTM in bfloat16."""
    states: Tensor
    if sequence.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            states, _ = lstm(sequence.float())
    else:
        states, _ = lstm(sequence)
    return states


def turned(sequence: Tensor, lengths: Tensor) -> Tensor:
    """(length, n, width) with the first `lengths` of each turned around; what comes after them is of no meaning."""
    places = (lengths - 1 - torch.arange(sequence.shape[0], device=sequence.device).unsqueeze(1)).clamp(min=0)
    return sequence.gather(0, places.unsqueeze(2).expand(-1, -1, sequence.shape[2]))


class Bigrams(nn.Module):
    """Tokens (n, length), lengths (n,) -> scores (n, classes): a sum of one weight for each word and each pair of
    neighbours that a text has, however often, over the root of how many they are."""

    def __init__(self, words: int, buckets: int, classes: int) -> None:
        super().__init__()
        self._words, self._buckets = words, buckets
        self.weights = nn.Embedding(words + buckets, classes, padding_idx=PADDING)
        nn.init.zeros_(self.weights.weight)
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Scores."""
        first, second = tokens[:, :-1], tokens[:, 1:]
        pairs = self._words + (first * FACTORS[0] + second * FACTORS[1]) % self._buckets
        features = torch.cat([tokens, pairs.masked_fill(second == PADDING, PADDING)], 1).sort(1).values
        again = features[:, 1:] == features[:, :-1]
        features = torch.cat([features[:, :1], features[:, 1:].masked_fill(again, PADDING)], 1)
        number = (features != PADDING).sum(1, keepdim=True)
        scores: Tensor = self.weights(features).sum(1) / number.sqrt() + self.bias
        return scores
