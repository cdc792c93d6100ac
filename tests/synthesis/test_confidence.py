"""Confidence in a vessel map: what is expected of it, and each doubt by a picture with this fault and no other."""

import numpy as np
import pytest

from simulation.dataset import render_full_field
from simulation.eye import make_eye
from synthesis.confidence import assess, calibrated, expected_dice, sharpness

DIAMETER = 955.0  # px: of the simulated photograph's field


@pytest.fixture(scope="module")
def retina():
    """A simulated photograph, its field of view, and vessels."""
    fundus = render_full_field(make_eye(1, "OD", 3))
    fov = fundus.max(axis=-1) > 15
    vessels = np.random.default_rng(0).random((25, 25)).repeat(40, 0).repeat(40, 1) > 0.9
    return fundus, fov, vessels & fov


def doubts(retina, change=lambda fundus: fundus, cut=1000, certainty=0.99):
    """The doubts about the retina, after a change of its photograph, with a field that ends at a column."""
    fundus, fov, vessels = retina
    fov = fov & (np.arange(fov.shape[1]) < cut)
    drawn = np.where(vessels, certainty, 1 - certainty) * fov
    fundus = np.ascontiguousarray(change(fundus))
    return assess(fundus, fov, sharpness(fundus, fov, DIAMETER), drawn, vessels & fov).doubts


def noisy(fundus):
    """With the same noise in all channels, so that colours stay."""
    noise = np.random.default_rng(0).normal(0, 40, (*fundus.shape[:2], 1))
    return np.clip(fundus + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("fault", "doubt"),
    [
        ({"change": lambda fundus: fundus // 8}, "dark"),
        ({"change": noisy}, "noisy"),
        ({"change": lambda fundus: fundus[..., [1, 1, 1]]}, "colours"),
        ({"change": lambda fundus: fundus[..., ::-1]}, "colours"),
        ({"cut": 350}, "cut off"),
        ({"certainty": 0.6}, "expected Dice"),
    ],
)
def test_fault_is_named(retina, fault, doubt):
    (found,) = doubts(retina, **fault)
    assert doubt in found


def test_simulated_photograph_is_usable(retina):
    assert doubts(retina) == ()


def test_expected_dice_is_the_mean_over_maps_drawn_at_random():
    random = np.random.default_rng(0)
    drawn = random.beta(0.3, 0.7, (80, 80))
    vessels = drawn > 0.5
    maps = random.random((500, 80, 80)) < drawn
    dices = 2 * (maps & vessels).sum(axis=(1, 2)) / (maps.sum(axis=(1, 2)) + vessels.sum())
    assert expected_dice(drawn, vessels) == pytest.approx(dices.mean(), abs=1e-3)


@pytest.mark.parametrize("sharp", [0.0, 0.3, 2.0, 50.0])
@pytest.mark.parametrize("px_per_mm", [None, 10.0, 80.0, 500.0])
def test_calibrated_probability_rises_with_the_network_s(sharp, px_per_mm):
    assert (np.diff([0, *calibrated(np.linspace(0, 1, 101), sharp, px_per_mm), 1]) > 0).all()


def test_sharpness_is_that_of_the_photograph_at_any_size(retina):
    fundus, fov, _ = retina
    small = fundus.reshape(500, 2, 500, 2, 3).mean(axis=(1, 3)).astype(np.uint8)
    one, other = sharpness(fundus, fov, DIAMETER), sharpness(small, fov[::2, ::2], DIAMETER / 2)
    assert one == pytest.approx(other, rel=0.25)
