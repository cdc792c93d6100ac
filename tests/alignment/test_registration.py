"""Registration of an OCT-A with a prediction: known displacements, folds, limits, images with nothing to register."""

import numpy as np
import pytest
from conftest import lines
from scipy.ndimage import gaussian_filter

import alignment.registration as reg
from alignment.search import rotation

SIDE = 400


EVERYWHERE = np.ones((SIDE, SIDE), bool)


def smooth_field(seed, sigma=60.0, largest=10.0):
    """A displacement (2, 400, 400) of up to `largest` px."""
    field = gaussian_filter(np.random.default_rng(seed).standard_normal((2, SIDE, SIDE)), (0, sigma, sigma))
    return field * largest / np.hypot(*field).max()


def speckled(vessels, seed=0):
    """An OCT-A, [0, 1], with vessels."""
    speckle = gaussian_filter(np.random.default_rng(seed).standard_normal(vessels.shape), 1)
    return np.clip(0.3 + 0.6 * vessels + 0.3 * speckle, 0, 1)


def constant(down, right, shape=(SIDE, SIDE)):
    """A displacement by the same vector everywhere."""
    return np.broadcast_to(np.reshape([down, right], (2, 1, 1)), (2, *shape))


def found_in(octa, prediction, fov=EVERYWHERE):
    """The displacement that is found, in px of the images."""
    fit = reg.fit(reg.reduced(octa), reg.reduced_eye(prediction, fov))
    return reg.enlarged(fit.displacement, prediction.shape)


@pytest.fixture(scope="module")
def scan():
    """Vessels as an OCT-A shows them, (400, 400)."""
    return lines(1, SIDE, spacing=20)


def test_known_displacement_is_found_and_improves_the_fit(scan):
    field = smooth_field(0) + constant(6.0, -4.0)
    prediction = reg.warp(scan, field)
    found = reg.fit(reg.reduced(speckled(scan)), reg.reduced_eye(prediction, EVERYWHERE))
    error = np.hypot(*(reg.enlarged(found.displacement, (SIDE, SIDE)) - field))[prediction > 0.5]
    assert np.median(error) < 0.7
    assert np.percentile(error, 95) < 2.5
    assert found.before < 0.8 < 0.9 < found.after


@pytest.mark.parametrize(("degrees", "scale"), [(2, 1.03), (-2, 0.97)])
def test_rotation_and_scale_are_found(scan, degrees, scale):
    matrix = scale * rotation(np.deg2rad(degrees)) - np.eye(2)
    field = np.tensordot(matrix, np.indices((SIDE, SIDE)) - (SIDE - 1) / 2, 1)
    prediction = reg.warp(scan, field)
    error = np.hypot(*(found_in(speckled(scan), prediction) - field))
    assert np.median(error[prediction > 0.5]) < 0.7


def test_only_the_field_is_compared(scan):
    field = smooth_field(2, largest=8)
    left = np.broadcast_to(np.arange(SIDE) < SIDE // 2, (SIDE, SIDE))
    prediction = np.where(left, reg.warp(scan, field), lines(9, SIDE, spacing=20))
    found = found_in(speckled(scan), prediction, left)
    assert np.median(np.hypot(*(found - field))[left & (prediction > 0.5)]) < 0.8


def test_displacement_is_regular_where_there_are_no_vessels(scan):
    top = (np.arange(SIDE) < SIDE // 2)[:, np.newaxis]
    found = found_in(speckled(scan), np.where(top, reg.warp(scan, constant(8.0, 0.0)), 0))
    assert np.hypot(*(found - constant(8.0, 0.0))).max() < 4


@pytest.mark.parametrize("seed", [3, 4])
def test_even_different_eyes_are_displaced_without_folds_and_within_25_px(scan, seed):
    found = found_in(scan, lines(seed, SIDE, spacing=12))
    assert reg.jacobian(found).min() > 0
    assert np.hypot(*found).max() <= 25


def test_fold_is_ironed_out(scan, monkeypatch):
    monkeypatch.setattr(reg, "BENDING", 1e-5)
    monkeypatch.setattr(reg, "STRETCHING", 0.0)
    monkeypatch.setattr(reg, "STIFF_MATCHES", 1e-4)
    eye = reg.reduced_eye(lines(3, SIDE, spacing=12), np.ones((SIDE, SIDE), bool))
    assert reg.jacobian(reg.fit(reg.reduced(scan), eye).displacement).min() >= reg.LEAST_JACOBIAN


def test_long_displacements_are_shortened():
    np.testing.assert_allclose(reg.limited(constant(30.0, 0.0))[0], reg.LARGEST, atol=1e-4)


def test_images_that_are_not_square(scan):
    wide = scan[:200]
    prediction = reg.warp(wide, constant(0.0, 6.0, wide.shape))
    octa, shown = reg.register(speckled(wide), prediction, np.ones_like(wide, bool))
    assert octa.shape == shown.shape == (200, SIDE)
    assert reg.correlation(octa, prediction, shown) > 0.9


def test_displacement_points_from_photograph_to_octa():
    octa = np.zeros((20, 20))
    octa[7, 12] = 1
    assert reg.warp(octa, constant(2.0, -3.0, (20, 20)))[5, 15] == 1


def test_jacobian_of_a_scale_and_of_a_fold():
    rows, columns = np.indices((20, 20)).astype(float)
    np.testing.assert_allclose(reg.jacobian(np.stack([0.5 * rows, 0 * columns])), 1.5)
    np.testing.assert_allclose(reg.jacobian(np.stack([0 * rows, -2 * columns])), -1)


@pytest.mark.parametrize(("image", "inside"), [(np.zeros((SIDE, SIDE)), True), (np.eye(SIDE), False)])
def test_images_without_anything_do_not_fit(scan, image, inside):
    found = reg.fit(reg.reduced(scan), reg.reduced_eye(image, np.full((SIDE, SIDE), inside)))
    assert found.after == 0
    assert np.isfinite(found.displacement).all()
