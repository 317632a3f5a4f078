"""What is remembered of tokens that proved good, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from dlcloud_operator.engine.rendezvous import PodIdentity, TokenCache

POD = PodIdentity("default", "mnist-0-1", "u0")


@dataclass
class Clock:
    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


def cache(clock: Clock, size: int = 8) -> TokenCache:
    return TokenCache(size, max_age_s=60.0, monotonic=clock, wall=clock)


def test_a_token_that_proved_good_names_its_pod_again() -> None:
    one = cache(Clock())
    one.put("good", POD, expires_at=2000.0)
    assert one.get("good") == POD
    assert one.get("other") is None


@pytest.mark.parametrize(("passed_s", "expires_at"), [(60.0, 2000.0), (10.0, 1010.0)], ids=["a minute", "its expiry"])
def test_it_is_forgotten_after(passed_s: float, expires_at: float) -> None:
    clock = Clock()
    one = cache(clock)
    one.put("good", POD, expires_at)
    clock.seconds += passed_s - 0.001
    assert one.get("good") == POD
    clock.seconds += 0.001
    assert one.get("good") is None
    assert len(one) == 0


def test_no_more_than_its_size_is_kept_and_what_was_used_last_stays() -> None:
    one = cache(Clock(), size=2)
    for name in ("first", "second"):
        one.put(name, POD, 2000.0)
    assert one.get("first") == POD
    one.put("third", POD, 2000.0)
    assert [one.get(name) for name in ("first", "second", "third")] == [POD, None, POD]


def test_no_token_can_be_read_from_it() -> None:
    one = cache(Clock())
    one.put("secret", POD, 2000.0)
    assert "secret" not in repr(vars(one))


def test_bytes_that_are_no_text_are_an_unknown_token() -> None:
    assert cache(Clock()).get("\udcff") is None
