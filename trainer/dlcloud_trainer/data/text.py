"""Texts with labels as tensors of tokens: from a URI to train, validation and test, with the vocabulary.

May import torch, numpy and the modules for files, Parquet, reviews, splits and words. The vocabulary comes from the
training part alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..assignment import StoreAddress
from ..errors import InvalidInput
from .files import Files, open_files
from .parquet import PARTS
from .reviews import CLASSES, read_reviews
from .splits import LAST, SPLIT_SEED, Indices, Labels, Splits, last_part, split_off
from .words import Numbering, Numbers, choose_vocabulary, fit, tokens_of

FEWEST = 2  # reviews of a class to train on: one is for the validation


class Texts(NamedTuple):
    """Labelled texts: `tokens` int32 (n, length), 0 where a text is over; `lengths` int64 (n,), from 1 on; `labels`
    int64 (n,)."""

    tokens: Tensor
    lengths: Tensor
    labels: Tensor


def load_texts(
    uri: str,
    store: StoreAddress,
    *,
    vocabulary: int | Sequence[str],
    length: int,
    keep: str = "end",
    validation: str = "stratified",
) -> Splits[Texts]:
    """Reviews, negative (0) or positive (1). `vocabulary` is the number of words, or all of them by token; a text keeps
    `length` words of its start or end (`keep`); `validation` is as in `TrainingParameters`. Raises `InvalidInput` or,
    when the store cannot be read, `StoreUnusable`."""
    return split_texts(open_files(uri, store), vocabulary=vocabulary, length=length, keep=keep, validation=validation)


def split_texts(
    files: Files, *, vocabulary: int | Sequence[str], length: int, keep: str, validation: str
) -> Splits[Texts]:
    """The same, of files that are open."""
    numbering = Numbering()
    found: dict[str, list[tuple[str, int, Numbers]]] = {part: [] for part in PARTS}
    for review in read_reviews(files):
        found[review.part].append((review.name, review.label, numbering.number(review.text)))
    for part, reviews in found.items():
        reviews.sort(key=lambda review: review[0])  # an archive has them in any order
        _check_classes([label for _, label, _ in reviews], part, FEWEST if part == "train" else 1, files)
    labels = {part: np.array([label for _, label, _ in found[part]], np.int64) for part in PARTS}
    texts = {part: [text for _, _, text in found[part]] for part in PARTS}
    del found

    stays, taken = hold_out(labels["train"], validation)
    train, held_out = ([texts["train"][i] for i in indices] for indices in (stays, taken))
    words = numbering.words
    known = choose_vocabulary(words, train, vocabulary) if isinstance(vocabulary, int) else tuple(vocabulary)
    tokens = tokens_of(words, known)

    def tensors(chosen: Sequence[Numbers], own: Labels) -> Texts:
        fitted, lengths = fit(chosen, tokens, length, keep)
        return Texts(torch.from_numpy(fitted), torch.from_numpy(lengths), torch.from_numpy(own))

    return Splits(
        tensors(train, labels["train"][stays]),
        tensors(held_out, labels["train"][taken]),
        tensors(texts["test"], labels["test"]),
        CLASSES,
        vocabulary=known,
    )


def hold_out(labels: Labels, validation: str) -> tuple[Indices, Indices]:
    """Indices of what is trained on and of what is set aside, a tenth. `last` is the end of a fixed shuffle, as Keras'
    own loader of these reviews gives them: in the files all negative ones come first."""
    if validation != "last":
        return split_off(labels, LAST, SPLIT_SEED)
    shuffled = np.random.RandomState(SPLIT_SEED).permutation(len(labels))
    stays, taken = last_part(len(labels), LAST)
    return shuffled[stays], shuffled[taken]


def _check_classes(labels: Sequence[int], part: str, fewest: int, files: Files) -> None:
    for label, name in enumerate(CLASSES):
        if (count := labels.count(label)) < fewest:
            raise InvalidInput(
                f"{files.uri()}: {count or 'no'} {name} reviews to {part} on; at least {fewest} of each class are "
                "needed, copy all files"
            )
