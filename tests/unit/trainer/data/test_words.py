"""From text to words and tokens."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcloud_trainer.data.words import (
    PADDING,
    SPECIAL,
    UNKNOWN,
    Numbering,
    Vocabulary,
    choose_vocabulary,
    fit,
    split_words,
    tokens_of,
)

BY_EXPRESSION = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's GREAT, isn't it?", "it's great isn't it"),
        ("Good.<br /><br />Bad", "good bad"),
        ("'quoted' ''twice'' o'clock'", "quoted twice o'clock"),
        ("10/10 - so_so", "10 10 so so"),
        ("Café… “naïve”\xa0ÉTÉ", "café naïve été"),
        ("don’t", "don't"),
        (" ...!' ", ""),
        ("", ""),
    ],
)
def test_a_text_is_split_into_words(text: str, words: str) -> None:
    assert [word.decode() for word in split_words(text)] == words.split()


@given(st.text(st.sampled_from("aB'_ .9<éÉ…\n"), max_size=40))
def test_the_tables_split_as_the_expression_does(text: str) -> None:
    assert [word.decode() for word in split_words(text)] == BY_EXPRESSION.findall(text.lower())


@given(st.text(max_size=60))
def test_any_text_at_all_has_words_of_letters_digits_and_apostrophes(text: str) -> None:
    for word in split_words(text):
        assert word
        assert not set(word) & set(b' .,;_"<>\n\t')
        assert not word.startswith(b"'")
        assert not word.endswith(b"'")


def test_the_vocabulary_is_the_most_frequent_words_and_equal_ones_in_the_order_of_their_letters() -> None:
    numbering = Numbering()
    texts = [numbering.number(text) for text in ("zebra b a", "zebra c", "")]
    assert choose_vocabulary(numbering.words, texts, 3) == (*SPECIAL, "zebra", "a", "b")
    other = Numbering()
    turned = [other.number(text) for text in ("c zebra", "a b zebra")]
    assert choose_vocabulary(other.words, turned, 3) == (*SPECIAL, "zebra", "a", "b")


def test_words_that_only_other_texts_have_are_unknown() -> None:
    numbering = Numbering()
    train, test = [numbering.number("a a b")], [numbering.number("a c b")]
    known = choose_vocabulary(numbering.words, train, 10)
    assert known == (*SPECIAL, "a", "b")
    tokens, lengths = fit(test, tokens_of(numbering.words, known), 5, "end")
    assert tokens.tolist() == [[2, UNKNOWN, 3, PADDING, PADDING]]
    assert lengths.tolist() == [3]


@pytest.mark.parametrize(("keep", "kept"), [("start", [2, 3]), ("end", [4, 5])])
def test_a_long_text_keeps_the_end_that_is_asked_for(keep: str, kept: list[int]) -> None:
    tokens, lengths = fit([np.arange(4, dtype=np.int32)], np.arange(2, 6, dtype=np.int32), 2, keep)
    assert tokens.tolist() == [kept]
    assert lengths.tolist() == [2]


def test_a_text_without_words_is_one_unknown_word() -> None:
    tokens, lengths = fit([np.zeros(0, np.int32)], np.zeros(0, np.int32), 3, "end")
    assert (tokens.tolist(), lengths.tolist()) == ([[UNKNOWN, PADDING, PADDING]], [1])
    assert (tokens.dtype, lengths.dtype) == (np.int32, np.int64)


def test_a_vocabulary_takes_back_its_own_words_only() -> None:
    words = Vocabulary((*SPECIAL, "good", "bad"))
    words.load_state_dict(words.state_dict())
    with pytest.raises(ValueError, match=r"another one .*token 3 is 'bad' there, 'fine' here"):
        Vocabulary((*SPECIAL, "good", "fine")).load_state_dict(words.state_dict())
    with pytest.raises(ValueError, match="4 words there, 3 here; token 3 is 'bad' there, nothing here"):
        Vocabulary((*SPECIAL, "good")).load_state_dict(words.state_dict())
