"""`rnn`: what its models compute, beside the plainest way to compute it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dlcloud_trainer.assignment import Place, StoreAddress
from dlcloud_trainer.data import Splits
from dlcloud_trainer.data.text import Texts
from dlcloud_trainer.errors import InvalidInput
from dlcloud_trainer.initialisation import begin_as_keras
from dlcloud_trainer.loop import Feed
from dlcloud_trainer.parameters import parse_parameters
from dlcloud_trainer.sharding import Schedule
from dlcloud_trainer.workload import Moment
from dlcloud_trainer.workloads import rnn

from ..data.made_texts import write_reviews

CPU = torch.device("cpu")
WORDS = tuple(f"w{number}" for number in range(50))
SMALL = {"embedding": 6, "hidden": 5}


def texts(count: int, length: int = 9) -> Texts:
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(1, length + 1, (count,), generator=generator)
    tokens = torch.randint(1, len(WORDS), (count, length), dtype=torch.int32, generator=generator)
    tokens[torch.arange(length) >= lengths.unsqueeze(1)] = 0
    return Texts(tokens, lengths, torch.arange(count) % 2)


def make(count: int = 12, **given: Any) -> rnn.Rnn:
    """A task in evaluation mode, with weights that are not as small as at first."""
    part = texts(count)
    torch.manual_seed(5)
    task = rnn.make_task(
        rnn.Parameters.model_validate(given),
        Splits(part, part, part, ("negative", "positive"), vocabulary=WORDS),
        CPU,
    )
    with torch.no_grad():
        for name, weights in task.model.named_parameters():
            if "embedding" in name or "weights" in name:
                weights[1:] += torch.randn(len(weights) - 1, weights.shape[1])
    task.model.eval()
    return task


def feed(task: rnn.Rnn, count: int, rank: int = 0, world_size: int = 1) -> Any:
    return Feed(tuple(texts(count)), 0, Schedule(count, count, 1), Place(rank, rank, world_size)).part(0, 0)


READERS = [
    {**SMALL, "bidirectional": bidirectional, "pooling": pooling}
    for bidirectional in (False, True)
    for pooling in ("last", "max", "mean")
]
KINDS = [*READERS, {"kind": "bigrams", "buckets": 97}]


def plain_scores(task: rnn.Rnn, tokens: Tensor) -> Tensor:
    """Of one text without padding, by torch's own LSTMs step by step."""
    model, hidden = task.model, task.parameters.hidden
    words = model.embedding(tokens.long())
    features = []
    for lstm, sequence in zip(model.lstm, (words, words.flip(0)), strict=False):
        cell = nn.LSTMCell(lstm.input_size, hidden)
        cell.load_state_dict({name.removesuffix("_l0"): value for name, value in lstm.state_dict().items()})
        state = (torch.zeros(hidden), torch.zeros(hidden))
        states = []
        for word in sequence:
            state = cell(word, state)
            states.append(state[0])
        pooling = task.parameters.pooling
        stacked = torch.stack(states)
        features.append(states[-1] if pooling == "last" else stacked.amax(0) if pooling == "max" else stacked.mean(0))
    return model.dense(torch.cat(features))


@pytest.mark.parametrize("given", READERS, ids=str)
def test_the_scores_are_those_of_each_text_alone_without_its_padding(given: dict[str, Any]) -> None:
    task, batch = make(**given), texts(12)
    with torch.no_grad():
        scores = task.scores(task.inputs(tuple(batch)))
        for row in range(12):
            alone = plain_scores(task, batch.tokens[row, : batch.lengths[row]])
            torch.testing.assert_close(scores[row], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("given", READERS, ids=str)
def test_the_last_state_learns_from_the_first_word_and_padding_learns_nothing(given: dict[str, Any]) -> None:
    task, batch = make(**given), texts(12)
    words = task.model.get_submodule("embedding").weight
    task.model.train()
    task.optimizer.zero_grad()
    task.loss(task.model, feed(task, 12).replaced(*task.inputs(tuple(batch)), batch.labels)).backward()
    assert words.grad is not None
    assert not words.grad[0].any()
    for row in range(12):
        first = words.grad[batch.tokens[row, 0].long()]
        assert first.abs().sum() > 0


def test_an_lstm_begins_as_keras_begins_it() -> None:
    lstm = begin_as_keras(nn.LSTM(32, 128))
    trained = [weights for weights in lstm.parameters() if weights.requires_grad]
    assert sum(weights.numel() for weights in trained) == 82_432  # what Keras says of LSTM(128) on 32
    bias = lstm.state_dict()["bias_ih_l0"].view(4, 128)
    assert torch.equal(bias, torch.tensor([[0.0], [1.0], [0.0], [0.0]]).expand(4, 128))
    assert not lstm.state_dict()["bias_hh_l0"].any()
    recurrent = lstm.state_dict()["weight_hh_l0"]
    torch.testing.assert_close(recurrent.T @ recurrent, torch.eye(128), atol=1e-4, rtol=0)
    limit = (6 / (32 + 512)) ** 0.5
    assert 0.9 * limit < lstm.state_dict()["weight_ih_l0"].abs().max() <= limit


def test_the_bias_that_keras_has_not_is_never_trained() -> None:
    task = make(**SMALL)
    before = task.model.state_dict()["lstm.0.bias_hh_l0"].clone()
    task.model.train()
    for step in range(3):
        task.update(feed(task, 12), Moment(step, 0, 0.1))
    assert torch.equal(task.model.state_dict()["lstm.0.bias_hh_l0"], before)
    assert task.model.state_dict()["lstm.0.bias_ih_l0"].any()


def test_bigrams_count_each_word_and_each_pair_once() -> None:
    task = make(kind="bigrams", buckets=97)
    weights, bias = task.model.weights.weight, task.model.bias
    for row in ([3, 4, 3, 4, 5], [7], [1, 1]):
        tokens = torch.tensor([row + [0] * (8 - len(row))])
        features = set(row) | {
            len(WORDS) + (one * rnn.FACTORS[0] + other * rnn.FACTORS[1]) % 97 for one, other in pairwise(row)
        }
        wanted = weights[sorted(features)].sum(0) / len(features) ** 0.5 + bias
        scores = task.scores(task.inputs((tokens.int(), torch.tensor([len(row)]), torch.tensor([0]))))
        torch.testing.assert_close(scores[0], wanted)


def test_bigrams_know_the_order_of_words() -> None:
    task = make(kind="bigrams")
    batch = (torch.tensor([[7, 8, 9], [9, 8, 7]], dtype=torch.int32), torch.tensor([3, 3]), torch.tensor([0, 1]))
    scores = task.scores(task.inputs(batch))
    assert not torch.allclose(scores[0], scores[1])


@settings(max_examples=30)
@given(st.sampled_from(KINDS), st.integers(1, 9), st.integers(1, 4))
def test_the_mean_of_the_ranks_gradients_is_that_of_the_mean_over_the_batch(
    given: dict[str, Any], batch: int, world_size: int
) -> None:
    task = make(**given)
    task.model.eval()  # no dropout

    def gradients(parts: Iterator[Any]) -> Tensor:
        sums, number = [torch.zeros_like(weights) for weights in task.model.parameters()], 0
        for own in parts:
            task.optimizer.zero_grad()
            (task.loss(task.model, task.prepare(own)) * own.weight).backward()
            number += 1
            for total, weights in zip(sums, task.model.parameters(), strict=True):
                total += 0 if weights.grad is None else weights.grad
        return torch.cat([total.flatten() for total in sums]) / number

    alone = gradients(iter([feed(task, batch)]))
    together = gradients(feed(task, batch, rank, world_size) for rank in range(world_size))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("given", KINDS, ids=str)
def test_measures_are_sums_that_add_up(given: dict[str, Any]) -> None:
    task, batch = make(**given), tuple(texts(12))
    with torch.no_grad():
        whole = task.measure(batch)
        halves = [task.measure(tuple(tensor[part] for tensor in batch)) for part in (slice(0, 5), slice(5, 12))]
    assert torch.equal(halves[0]["confusion"] + halves[1]["confusion"], whole["confusion"])
    torch.testing.assert_close(halves[0]["loss"] + halves[1]["loss"], whole["loss"])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("given", KINDS, ids=str)
def test_a_few_steps_make_the_loss_smaller(given: dict[str, Any], precision: str) -> None:
    task = make(**given, precision=precision)
    task.model.train()
    losses = [task.update(feed(task, 12), Moment(step, 0, 0.03)).item() for step in range(15)]
    assert losses[-1] < 0.8 * losses[0]


def test_words_are_left_out_in_training_alone_and_padding_never() -> None:
    task, own = make(**SMALL, wordDropout=0.5), feed(make(), 12)
    prepared, lengths, _ = task.prepare(own).batch
    plain, _ = task.inputs(own.batch)
    changed = prepared != plain
    assert (prepared[changed] == 1).all()
    assert 0.3 < changed.sum() / (plain > 1).sum() < 0.7
    assert torch.equal(prepared == 0, plain == 0)
    assert torch.equal(lengths, own.batch[1])
    assert prepared.shape[1] == lengths.max()


def test_the_words_are_a_part_of_the_checkpoint_and_images_have_none() -> None:
    assert make().parts["vocabulary"].state_dict() == {"words": list(WORDS)}
    rows = parse_parameters(rnn, {"kind": "rows"})
    task = rnn.make_task(rows, rnn.load_data("builtin://digits", StoreAddress(), rows), CPU)
    assert sorted(task.parts) == ["model", "optimizer"]


def test_images_are_read_row_by_row() -> None:
    parameters = parse_parameters(rnn, {"kind": "rows", "hidden": 32})
    data = rnn.load_data("builtin://digits", StoreAddress(), parameters)
    torch.manual_seed(1)
    task = rnn.make_task(parameters, data, CPU)
    batch = tuple(tensor[:8] for tensor in data.train)
    rows, lengths = task.inputs(batch)
    assert (rows.shape, lengths.tolist()) == ((8, 28, 28), [28] * 8)
    assert torch.allclose(rows[3, 5], task.normalize(batch[0])[3, 0, 5])
    own = Feed(batch, 0, Schedule(8, 8, 1), Place(0, 0, 1)).part(0, 0)
    losses = [task.update(own, Moment(step, 0, 0.02)).item() for step in range(20)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kind": "bigrams", "hidden": 64}, "parameters.hidden: it does not apply to kind bigrams; leave it out"),
        ({"kind": "bigrams", "preset": "best"}, "parameters.preset: best is one for kind lstm, not bigrams"),
        ({"kind": "rows", "preset": "faithful"}, "parameters.preset: faithful is one for kind lstm, not rows"),
        ({"kind": "rows", "length": 100}, "parameters.length: it does not apply to kind rows"),
        ({"buckets": 64}, "parameters.buckets: it does not apply to kind lstm"),
        ({"kind": "gru"}, "parameters.kind: 'gru' is not allowed"),
        ({"keep": "middle"}, "parameters.keep: 'middle' is not allowed"),
    ],
)
def test_a_setting_that_does_nothing_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_parameters(rnn, given)
    assert words in str(refused.value)


@pytest.mark.parametrize("preset", ["default", "faithful", "best"])
def test_the_presets_are_settings_it_takes(preset: str) -> None:
    parameters = parse_parameters(rnn, {"preset": preset})
    assert parameters.preset == preset


def test_a_kind_has_settings_of_its_own_where_the_job_says_nothing() -> None:
    bigrams = parse_parameters(rnn, {"kind": "bigrams"})
    assert (bigrams.length, bigrams.batch_size, bigrams.learning_rate) == (1000, 256, 0.01)
    given = parse_parameters(rnn, {"kind": "bigrams", "length": 50, "batchSize": 8})
    assert (given.length, given.batch_size, given.learning_rate) == (50, 8, 0.01)
    assert rnn.Parameters(kind="bigrams", batch_size=8).batch_size == 8
    assert parse_parameters(rnn, {}).length == 200


def test_the_faithful_preset_is_the_courses() -> None:
    known = parse_parameters(rnn, {"preset": "faithful"})
    assert (known.kind, known.vocabulary, known.embedding, known.hidden, known.dropout) == (
        "lstm",
        10_000,
        32,
        128,
        0.5,
    )
    assert (known.optimizer, known.epsilon, known.batch_size, known.epochs) == ("adam", 1e-7, 32, 10)
    assert (known.validation, known.pooling, known.bidirectional, known.schedule) == ("last", "max", False, "constant")


def test_reviews_come_with_their_words_and_digits_have_none(tmp_path: Path) -> None:
    uri = write_reviews(tmp_path)
    data = rnn.load_data(uri, StoreAddress(), parse_parameters(rnn, {"vocabulary": 5}))
    assert len(data.vocabulary) == 7
    assert data.train.tokens.shape == (54, 200)
    longer = rnn.load_data(uri, StoreAddress(), parse_parameters(rnn, {"kind": "bigrams"}))
    assert longer.train.tokens.shape == (54, 1000)
    with pytest.raises(InvalidInput, match="builtin://digits has no text"):
        rnn.load_data("builtin://digits", StoreAddress(), parse_parameters(rnn, {}))
