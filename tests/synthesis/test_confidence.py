"""Confidence in a vessel map: each doubt by a picture that has this fault and no other."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from simulation.dataset import render_full_field
from simulation.eye import make_eye
from synthesis.confidence import assess, sharpness

DIAMETER = 955.0  # px: of the simulated photograph's field


@pytest.fixture(scope="module")
def retina():
    """A simulated photograph, its field of view, and vessels with their probability as of a good network."""
    fundus = render_full_field(make_eye(1, "OD", 3))
    fov = fundus.max(axis=-1) > 15
    vessels = np.random.default_rng(0).random((25, 25)).repeat(40, 0).repeat(40, 1) > 0.9
    return fundus, fov, vessels & fov


def doubts(retina, change=lambda fundus: fundus, cut=1000, contrast=0.33, diameter=DIAMETER):
    """The doubts about the retina, after a change of its photograph, with a field that ends at a column."""
    fundus, fov, vessels = retina
    fov = fov & (np.arange(fov.shape[1]) < cut)
    return assess(np.ascontiguousarray(change(fundus)), fov, diameter, 0.2 + contrast * vessels, vessels & fov).doubts


def noisy(fundus):
    """With the same noise in all channels, so that colours stay."""
    noise = np.random.default_rng(0).normal(0, 40, (*fundus.shape[:2], 1))
    return np.clip(fundus + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("fault", "doubt"),
    [
        ({"change": lambda fundus: fundus // 8}, "dark"),
        ({"change": lambda fundus: gaussian_filter(fundus, (8, 8, 0))}, "blurred"),
        ({"change": noisy}, "noisy"),
        ({"change": lambda fundus: fundus[..., [1, 1, 1]]}, "colours"),
        ({"change": lambda fundus: fundus[..., ::-1]}, "colours"),
        ({"cut": 350}, "cut off"),
        ({"contrast": 0.2}, "low vessel contrast"),
        ({"contrast": 0.295, "diameter": None}, "low vessel contrast"),  # without a border the limit is closer
    ],
)
def test_fault_is_named(retina, fault, doubt):
    (found,) = doubts(retina, **fault)
    assert doubt in found


@pytest.mark.parametrize("contrast", [0.295, 0.33])
def test_simulated_photograph_is_usable(retina, contrast):
    assert doubts(retina, contrast=contrast) == ()


def test_sharpness_is_that_of_the_photograph_at_any_size(retina):
    fundus, fov, _ = retina
    small = fundus.reshape(500, 2, 500, 2, 3).mean(axis=(1, 3)).astype(np.uint8)
    one, other = sharpness(fundus, fov, DIAMETER), sharpness(small, fov[::2, ::2], DIAMETER / 2)
    assert one == pytest.approx(other, rel=0.25)
