"""Fréchet's distance beside its definition."""

from __future__ import annotations

import math

import pytest
import torch

from dlcloud_trainer.frechet import RandomFeatures, frechet_distance, moments


def features(count: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(4, 4, generator=torch.Generator().manual_seed(9))
    return torch.randn(count, 4, generator=generator) @ mixing * scale + shift


def test_of_a_set_from_itself_it_is_nothing() -> None:
    sums = moments(features(50, 1))
    assert frechet_distance(sums, sums, 50) == pytest.approx(0, abs=1e-6)


def test_of_one_feature_it_is_the_difference_of_means_and_deviations_squared() -> None:
    one, other = torch.tensor([[1.0], [3.0], [8.0]]), torch.tensor([[2.0], [2.5], [4.5]])
    wanted = (one.mean() - other.mean()) ** 2 + (one.std() - other.std()) ** 2
    assert frechet_distance(moments(one), moments(other), 3) == pytest.approx(wanted.item(), rel=1e-6)


def test_it_is_what_the_root_of_the_product_of_covariances_gives() -> None:
    one, other = features(300, 1).double(), features(300, 2, scale=0.5, shift=0.7).double()
    product = torch.cov(one.T) @ torch.cov(other.T)
    root = torch.linalg.eigvals(product).sqrt().sum().real
    wanted = (
        (one.mean(0) - other.mean(0)).square().sum() + torch.cov(one.T).trace() + torch.cov(other.T).trace() - 2 * root
    )
    assert frechet_distance(moments(one), moments(other), 300) == pytest.approx(wanted.item(), rel=1e-6)


def test_moments_of_batches_add_up_to_those_of_the_whole() -> None:
    whole = features(31, 3)
    torch.testing.assert_close(moments(whole[:13]) + moments(whole[13:]), moments(whole), rtol=1e-12, atol=1e-12)


def test_what_is_not_finite_has_no_distance() -> None:
    broken = features(9, 1)
    broken[3, 2] = math.inf
    assert math.isnan(frechet_distance(moments(broken), moments(features(9, 2)), 9))


def test_random_features_are_the_same_every_time_and_tell_images_apart() -> None:
    generator = torch.Generator().manual_seed(1)
    smooth = torch.linspace(-1, 1, 28).expand(40, 1, 28, 28) * torch.rand(40, 1, 1, 1, generator=generator)
    rough = torch.randn(40, 1, 28, 28, generator=generator).clamp(-1, 1)
    seen = RandomFeatures(1, torch.device("cpu"))
    assert seen(smooth).shape == (40, 64)
    assert torch.equal(seen(smooth), RandomFeatures(1, torch.device("cpu"))(smooth))
    near = frechet_distance(moments(seen(rough[:20])), moments(seen(rough[20:])), 20)
    far = frechet_distance(moments(seen(rough[:20])), moments(seen(smooth[:20])), 20)
    assert far > 3 * near
