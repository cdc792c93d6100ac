"""Registration of an OCT-A with a prediction: known displacements, folds, limits, images with nothing to register."""

import numpy as np
import pytest
from conftest import lines
from scipy.ndimage import gaussian_filter

import alignment.registration as reg

SIDE = 400


def smooth_field(seed, sigma=60.0, largest=10.0):
    """A displacement (2, 400, 400) of up to `largest` px."""
    field = gaussian_filter(np.random.default_rng(seed).standard_normal((2, SIDE, SIDE)), (0, sigma, sigma))
    return field * largest / np.hypot(*field).max()


def speckled(vessels, seed=0):
    """An OCT-A, [0, 1], with vessels."""
    speckle = gaussian_filter(np.random.default_rng(seed).standard_normal(vessels.shape), 1)
    return np.clip(0.3 + 0.6 * vessels + 0.3 * speckle, 0, 1)


@pytest.fixture(scope="module")
def scan():
    """Vessels as an OCT-A shows them, (400, 400)."""
    return lines(1, SIDE, spacing=20)


@pytest.fixture(scope="module")
def known(scan):
    """A displacement, what is found, and where there are vessels."""
    field = smooth_field(0) + np.array([6.0, -4.0])[:, np.newaxis, np.newaxis]
    prediction = reg.warp(scan, field)
    eye = reg.reduced_eye(prediction, np.ones((SIDE, SIDE), bool))
    return field, reg.fit(reg.reduced(speckled(scan)), eye), prediction > 0.5


def test_known_displacement_is_found(known):
    field, found, vessels = known
    error = np.hypot(*(reg.enlarged(found.displacement, (SIDE, SIDE)) - field))[vessels]
    assert np.median(error) < 0.7
    assert np.percentile(error, 95) < 2.5


def test_fit_improves(known):
    assert known[1].before < 0.8 < 0.9 < known[1].after


@pytest.mark.parametrize(("degrees", "scale"), [(2, 1.03), (-2, 0.97)])
def test_rotation_and_scale_are_found(scan, degrees, scale):
    angle = np.deg2rad(degrees)
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) - np.eye(2)
    field = np.tensordot(matrix, np.indices((SIDE, SIDE)) - (SIDE - 1) / 2, 1)
    prediction = reg.warp(scan, field)
    found = reg.fit(reg.reduced(speckled(scan)), reg.reduced_eye(prediction, np.ones((SIDE, SIDE), bool)))
    error = np.hypot(*(reg.enlarged(found.displacement, (SIDE, SIDE)) - field))
    assert np.median(error[prediction > 0.5]) < 0.7


def test_only_the_field_is_compared(scan):
    field = smooth_field(2, largest=8)
    left = np.broadcast_to(np.arange(SIDE) < SIDE // 2, (SIDE, SIDE))
    prediction = np.where(left, reg.warp(scan, field), lines(9, SIDE, spacing=20))
    found = reg.enlarged(
        reg.fit(reg.reduced(speckled(scan)), reg.reduced_eye(prediction, left)).displacement, left.shape
    )
    assert np.median(np.hypot(*(found - field))[left & (prediction > 0.5)]) < 0.8


def test_displacement_is_regular_where_there_are_no_vessels(scan):
    shifted = reg.warp(scan, np.broadcast_to(np.reshape([8.0, 0.0], (2, 1, 1)), (2, SIDE, SIDE)))
    top = np.broadcast_to((np.arange(SIDE) < SIDE // 2)[:, np.newaxis], (SIDE, SIDE))
    eye = reg.reduced_eye(np.where(top, shifted, 0), np.ones((SIDE, SIDE), bool))
    found = reg.enlarged(reg.fit(reg.reduced(speckled(scan)), eye).displacement, (SIDE, SIDE))
    assert np.hypot(*(found - np.reshape([8.0, 0.0], (2, 1, 1)))).max() < 4


@pytest.mark.parametrize("seed", [3, 4])
def test_even_different_eyes_are_displaced_without_folds_and_within_25_px(scan, seed):
    eye = reg.reduced_eye(lines(seed, SIDE, spacing=12), np.ones((SIDE, SIDE), bool))
    found = reg.enlarged(reg.fit(reg.reduced(scan), eye).displacement, (SIDE, SIDE))
    assert reg.jacobian(found).min() > 0
    assert np.hypot(*found).max() <= 25


def test_fold_is_ironed_out(scan, monkeypatch):
    monkeypatch.setattr(reg, "BENDING", 1e-5)
    monkeypatch.setattr(reg, "STRETCHING", 0.0)
    monkeypatch.setattr(reg, "STIFF_MATCHES", 1e-4)
    eye = reg.reduced_eye(lines(3, SIDE, spacing=12), np.ones((SIDE, SIDE), bool))
    assert reg.jacobian(reg.fit(reg.reduced(scan), eye).displacement).min() >= reg.LEAST_JACOBIAN


def test_long_displacements_are_shortened():
    long = np.zeros((2, 40, 40))
    long[0] = 30
    np.testing.assert_allclose(reg.limited(long)[0], reg.LARGEST, atol=1e-4)


def test_images_that_are_not_square(scan):
    wide = scan[:200]
    shift = np.broadcast_to(np.reshape([0.0, 6.0], (2, 1, 1)), (2, 200, SIDE))
    octa, shown = reg.register(speckled(wide), reg.warp(wide, shift), np.ones((200, SIDE), bool))
    assert octa.shape == shown.shape == (200, SIDE)
    assert reg.correlation(octa, reg.warp(wide, shift), shown) > 0.9


def test_displacement_points_from_photograph_to_octa():
    octa = np.zeros((20, 20))
    octa[7, 12] = 1
    shift = np.broadcast_to(np.reshape([2.0, -3.0], (2, 1, 1)), (2, 20, 20))
    assert reg.warp(octa, shift)[5, 15] == 1


def test_jacobian_of_a_scale_and_of_a_fold():
    rows, columns = np.indices((20, 20)).astype(float)
    np.testing.assert_allclose(reg.jacobian(np.stack([0.5 * rows, 0 * columns])), 1.5)
    np.testing.assert_allclose(reg.jacobian(np.stack([0 * rows, -2 * columns])), -1)


@pytest.mark.parametrize(("image", "inside"), [(np.zeros((SIDE, SIDE)), True), (np.eye(SIDE), False)])
def test_images_without_anything_do_not_fit(scan, image, inside):
    found = reg.fit(reg.reduced(scan), reg.reduced_eye(image, np.full((SIDE, SIDE), inside)))
    assert found.after == 0
    assert np.isfinite(found.displacement).all()


def test_eye_of_another_shape_is_resized_to_a_field():
    eye = reg.Eye(np.ones((50, 80), np.float16), np.ones((50, 80), bool))
    field = np.broadcast_to(np.arange(60) < 30, (60, 60))
    np.testing.assert_array_equal(eye.within(field).fov, field)
    assert eye.within(field).prediction.shape == (60, 60)
