"""The verdict on a photograph: each doubt by a picture that has this fault and no other."""

from dataclasses import astuple

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from simulation.dataset import render_full_field
from simulation.eye import make_eye
from synthesis.confidence import judge, sharpness

DIAMETER = 955.0  # px: of the simulated photograph's field


@pytest.fixture(scope="module")
def retina():
    """A simulated photograph, its field, and the vessel probability of a network that sees its vessels."""
    fundus = render_full_field(make_eye(1, "OD", 3))
    fov = fundus.max(axis=-1) > 15
    vessels = np.random.default_rng(0).random((25, 25)).repeat(40, 0).repeat(40, 1) > 0.9
    return fundus, fov, vessels & fov


def with_noise(fundus, levels):
    """The photograph with the same noise in all channels, so that its colours stay."""
    noise = np.random.default_rng(0).normal(0, levels, (*fundus.shape[:2], 1))
    return np.clip(fundus + noise, 0, 255).astype(np.uint8)


def doubts(retina, fundus=None, fov=None, contrast=0.33, diameter=DIAMETER):
    original, field, vessels = retina
    fundus, fov = original if fundus is None else fundus, field if fov is None else fov
    return judge(fundus, fov, diameter, 0.2 + contrast * vessels, vessels & fov).doubts


def test_sample_photograph_is_usable(retina):
    assert doubts(retina) == ()


@pytest.mark.parametrize(
    ("change", "doubt"),
    [
        (lambda fundus: fundus // 8, "dark"),
        (lambda fundus: gaussian_filter(fundus, (8, 8, 0)), "blurred"),
        (lambda fundus: with_noise(fundus, 40), "noisy"),
        (lambda fundus: fundus[..., [1, 1, 1]], "colours"),
        (lambda fundus: fundus[..., ::-1], "colours"),
    ],
)
def test_fault_of_the_photograph_is_named(retina, change, doubt):
    (found,) = doubts(retina, np.ascontiguousarray(change(retina[0])))
    assert doubt in found


def test_field_that_is_cut_off_is_named(retina):
    fov = retina[1].copy()
    fov[:, 350:] = False
    (found,) = doubts(retina, fov=fov)
    assert "cut off" in found


def test_vessels_that_hardly_stand_out_are_named(retina):
    (found,) = doubts(retina, contrast=0.2)
    assert "stand out" in found


def test_without_a_border_the_limits_are_closer(retina):
    assert doubts(retina, contrast=0.295) == ()
    assert doubts(retina, contrast=0.295, diameter=None) != ()


def test_picture_without_vessels_is_doubtful(retina):
    fundus, fov, _ = retina
    nothing = np.zeros(fov.shape)
    assert judge(fundus, fov, DIAMETER, nothing, nothing > 0).verdict.startswith("doubtful: vessels hardly")


def test_sharpness_is_that_of_the_photograph_at_any_size(retina):
    fundus, fov, _ = retina
    small = fundus.reshape(500, 2, 500, 2, 3).mean(axis=(1, 3)).astype(np.uint8)
    one, other = sharpness(fundus, fov, DIAMETER), sharpness(small, fov[::2, ::2], DIAMETER / 2)
    assert one == pytest.approx(other, rel=0.25)


def test_measures_are_finite_for_a_photograph_of_one_pixel():
    one = np.ones((1, 1))
    trust = judge(np.full((1, 1, 3), 90, np.uint8), one > 0, None, one, one > 0)
    assert np.isfinite(astuple(trust)[:4]).all()
