"""From text to words, and from words to tokens.

May import numpy. A word is a run of letters and digits, in lower case; apostrophes inside it belong to it ("don't"),
all other signs and HTML's line breaks part words. What is made here depends on the text alone.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int32]
PADDING, UNKNOWN = 0, 1
SPECIAL = ("<padding>", "<unknown>")  # no word looks like these
LINE_BREAK = "<br />"
APOSTROPHE, TYPOGRAPHIC = "'", "\N{RIGHT SINGLE QUOTATION MARK}"
_SIGNS = re.compile(r"[^\w']+")
_KEPT = b"0123456789abcdefghijklmnopqrstuvwxyz'"
# Bytes beyond ASCII are parts of letters: the other signs among them are gone before.
_LETTERS = bytes(byte if byte in _KEPT or byte > 127 else ord(" ") for byte in range(256))


def split_words(text: str) -> list[bytes]:
    """The words of a text, in UTF-8: by tables over bytes, twice as fast as by a regular expression."""
    text = text.lower().replace(LINE_BREAK, " ")
    if not text.isascii():
        text = _SIGNS.sub(" ", text.replace(TYPOGRAPHIC, APOSTROPHE))
    data = text.encode("utf-8", "ignore").translate(_LETTERS)
    for outside in (b"''", b" '", b"' "):
        data = data.replace(outside, b" ")
    return data.strip(b" '").split()


class Numbering:
    """Every word gets the next number when it is first seen."""

    def __init__(self) -> None:
        self._numbers: defaultdict[bytes, int] = defaultdict()
        self._numbers.default_factory = self._numbers.__len__

    def number(self, text: str) -> Numbers:
        """The numbers of a text's words."""
        return np.fromiter(map(self._numbers.__getitem__, split_words(text)), np.int32)

    @property
    def words(self) -> list[str]:
        """By their numbers."""
        return [word.decode() for word in self._numbers]


def choose_vocabulary(words: Sequence[str], texts: Sequence[Numbers], size: int) -> tuple[str, ...]:
    """Words by token: the special ones, then the `size` most frequent of the texts; equally frequent ones in the order
    of their characters."""
    counts = np.bincount(np.concatenate(texts), minlength=len(words))
    seen = np.flatnonzero(counts).tolist()
    seen.sort(key=lambda number: (-counts[number], words[number]))
    return (*SPECIAL, *(words[number] for number in seen[:size]))


def tokens_of(words: Sequence[str], vocabulary: Sequence[str]) -> Numbers:
    """The token of each word, by its number."""
    tokens = {word: token for token, word in enumerate(vocabulary)}
    return np.array([tokens.get(word, UNKNOWN) for word in words], np.int32)


def fit(texts: Sequence[Numbers], tokens: Numbers, length: int, keep: str) -> tuple[Numbers, npt.NDArray[np.int64]]:
    """Tokens (n, length), padded at their end, and how many of each text there are (n,): its first or last (`keep` is
    start or end). A text without words is one unknown word."""
    fitted = np.full((len(texts), length), PADDING, np.int32)
    lengths = np.ones(len(texts), np.int64)
    for row, text in enumerate(texts):
        kept = text[-length:] if keep == "end" else text[:length]
        fitted[row, 0] = UNKNOWN
        fitted[row, : len(kept)] = tokens[kept]
        lengths[row] = max(1, len(kept))
    return fitted, lengths


class Vocabulary:
    """A model's words, stored with it: a part of its checkpoints."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)

    def state_dict(self) -> dict[str, list[str]]:
        """For the checkpoint."""
        return {"words": list(self.words)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From the checkpoint; raises ValueError for other words than the data's: the weights belong to words."""
        stored = tuple(state["words"])
        if stored == self.words:
            return
        pairs = enumerate(zip(stored, self.words, strict=False))
        token = next((token for token, (one, other) in pairs if one != other), min(len(stored), len(self.words)))
        there, here = (repr(words[token]) if token < len(words) else "nothing" for words in (stored, self.words))
        raise ValueError(
            f"the checkpoint's vocabulary is another one ({len(stored)} words there, {len(self.words)} here; token "
            f"{token} is {there} there, {here} here): train on the data that it was made from"
        )
