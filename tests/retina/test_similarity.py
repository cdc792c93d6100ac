"""The similarity of two OCT-A, compared with cases worked by hand and with scikit-image."""

import numpy as np
import pytest
from skimage.metrics import structural_similarity

import retina.similarity as sm

CROP = (400, 400)
EVERYWHERE = np.ones(CROP, dtype=bool)
HALF = np.broadcast_to(np.arange(400) < 250, CROP)
VESSELS = np.where(abs(np.arange(400) - 164.5) < 15, 0.8, 0.2) + 0.1 * np.random.default_rng(0).standard_normal(CROP)
VESSELS = VESSELS.clip(0, 1)  # a bright bar with speckle


def speckle(seed):
    """Noise about a grey of 0.5: (400, 400)."""
    return 0.5 + 0.1 * np.random.default_rng(seed).uniform(-1, 1, CROP)


def test_mean_scores_are_those_of_the_crops_that_have_them():
    one, two = (dict.fromkeys(sm.VALIDATION_SCORES, value) | {"rim": np.nan} for value in (1.0, 2.0))
    means = sm.mean_scores([one | {"ssim": np.nan}, two])
    assert (means["mae"], means["ssim"], means["rim"]) == pytest.approx((1.5, 2, np.nan), nan_ok=True)


def test_empty_field_has_all_scores_nan():
    scores = sm.validation_scores(VESSELS, VESSELS, ~EVERYWHERE)
    assert list(scores) == list(sm.VALIDATION_SCORES)
    assert np.isnan(list(scores.values())).all()


def test_pixels_outside_the_field_do_not_count():
    generated = np.clip(VESSELS + 0.05 * np.sin(np.arange(400)), 0, 1)
    changed = np.where(HALF, VESSELS, 1), np.where(HALF, generated, np.nan)
    assert sm.validation_scores(VESSELS, generated, HALF) == sm.validation_scores(*changed, HALF)


def test_scores_of_equal_and_of_inverted_images():
    best = {"mae": 0, "psnr": np.inf, "ssim": 1, "vessel_auc": 1, "vessel_dice": 1, "vessel_correlation": 1}
    scores, inverted = (sm.validation_scores(VESSELS, image, EVERYWHERE) for image in (VESSELS, 1 - VESSELS))
    assert list(scores) == list(sm.VALIDATION_SCORES)
    assert {name: scores[name] for name in best} == pytest.approx(best)
    assert [inverted[name] for name in sm.vessel_agreement.names] == pytest.approx([0, 0, -1], abs=0.05)


def test_mae_and_psnr_by_hand():
    generated = np.where(np.arange(400) % 2, 0.4, 0.6) * np.ones(CROP)
    scores = sm.image_similarity(np.full(CROP, 0.5), generated, HALF)
    assert (scores["mae"], scores["psnr"]) == pytest.approx((0.1, 20))  # 10 log10(1 / 0.01)


def test_ssim_equals_scikit_image_without_a_mask():
    generated = np.clip(VESSELS + 0.1 * np.sin(np.arange(400)), 0, 1)
    wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    ssim = structural_similarity(VESSELS, generated, data_range=1, **wang)
    assert sm.image_similarity(VESSELS, generated, EVERYWHERE)["ssim"] == pytest.approx(ssim)
    small = (image[:8] for image in (VESSELS, generated, EVERYWHERE))  # than its window
    assert np.isnan(sm.image_similarity(*small)["ssim"])


@pytest.mark.parametrize(("real", "generated", "auc"), [(HALF, HALF * 0, 0.5), (HALF * 0, HALF, np.nan)])
def test_uniform_images_have_no_vessel_map(real, generated, auc):
    scores = sm.vessel_agreement(real, generated, EVERYWHERE)
    assert list(scores.values()) == pytest.approx([auc, np.nan, np.nan], nan_ok=True)


def test_agreement_does_not_depend_on_the_image_size():
    images = VESSELS, np.clip(VESSELS + 0.3 * np.random.default_rng(2).standard_normal(CROP), 0, 1), EVERYWHERE
    large = [np.kron(image, np.ones((2, 2), image.dtype)) for image in images]
    assert sm.vessel_agreement(*large) == pytest.approx(sm.vessel_agreement(*images), abs=0.01)


@pytest.mark.parametrize(
    ("other", "texture", "grey_levels"),
    [
        (0.5 + (speckle(0) - 0.5) / 2, 2, 0.025),  # half the contrast: a quarter of the power, two octaves
        (speckle(1), 0, 0),  # elsewhere, but the same texture
        (speckle(0) + 0.125, 0, 0.125),
    ],
    ids=["half", "elsewhere", "brighter"],
)
def test_likeness_of_speckle(other, texture, grey_levels):
    scores = sm.likeness(speckle(0), other, EVERYWHERE)
    assert scores["texture"] == pytest.approx(texture, abs=0.1)
    assert scores["grey_levels"] == pytest.approx(grey_levels, abs=0.005)


def test_vessels_are_no_texture():
    ground = sm.ground_of(VESSELS, EVERYWHERE)
    assert not ground[:, 150:180].any()
    assert ground[:, :140].any()


@pytest.mark.parametrize("period", [2, 4, 8, 16])
def test_checkerboard_of_known_power(period):
    noise = np.random.default_rng(0).standard_normal(CROP)
    board = 2.0 * ((np.indices(CROP) // (period // 2)).sum(axis=0) % 2) - 1  # a power of 1, as the noise
    assert sm.checkerboard(noise, EVERYWHERE) == pytest.approx(0, abs=0.01)
    # A board's harmonics that lie on the grid count; fine boards have no others.
    assert sm.checkerboard(noise + board, EVERYWHERE) == pytest.approx(0.5, abs=0.03)
    assert abs(sm.checkerboard(noise + np.where(HALF, 0, board), HALF)) < 0.01


def test_checkerboard_ignores_other_periods():
    stripes = np.sin(np.arange(400) * 2 * np.pi / 11)
    assert abs(sm.checkerboard(VESSELS + stripes, EVERYWHERE)) < 0.02
    assert sm.checkerboard(np.full(CROP, 0.5), EVERYWHERE) == 0
    assert np.isnan(sm.checkerboard(VESSELS, np.indices(CROP)[0] < 100))  # no window in the field


def test_rim_by_hand():
    real, columns = np.full(CROP, 0.3), np.arange(400)
    assert sm.artefacts(real, real + 0.1, HALF)["rim"] == pytest.approx(1)
    assert np.isnan(sm.artefacts(real, real + 0.1, EVERYWHERE)["rim"])  # no border of the field
    glow = sm.artefacts(real, real + np.where(columns >= 250 - 12, 0.3, 0.1), HALF)
    # 0.3 in the band of 12 px, 0.1 inside, except for what smoothing carries over
    lost = 0.2 * 3 / np.sqrt(2 * np.pi)  # integral of the blurred step's tail, sigma 3 px
    assert glow["rim"] == pytest.approx((0.3 - lost / 12) / (0.1 + lost / (250 - 12)), rel=0.02)
