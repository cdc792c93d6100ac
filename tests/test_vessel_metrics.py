"""The measures against cases worked by hand and against scikit-image."""

import logging

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vessel_metrics import (
    AGREEMENT_NAMES,
    ARTEFACT_NAMES,
    SIMILARITY_NAMES,
    artefacts,
    checkerboard,
    image_similarity,
    vessel_agreement,
    vessel_density,
    vessel_map,
)


@pytest.fixture
def vessels():
    """A bright bar on a dark ground (400, 400), [0, 1], with speckle."""
    random = np.random.default_rng(0)
    image = np.full((400, 400), 0.2)
    image[:, 150:180] = 0.8
    return np.clip(image + 0.1 * random.standard_normal(image.shape), 0, 1)


@pytest.fixture
def half_field():
    fov = np.zeros((400, 400), dtype=bool)
    fov[:, :250] = True
    return fov


def test_similarity_by_hand(half_field):
    real = np.full((400, 400), 0.5)
    generated = np.where(np.arange(400) % 2, 0.4, 0.6) * np.ones((400, 1))
    scores = image_similarity(real, generated, half_field)
    assert scores["mae"] == pytest.approx(0.1)
    assert scores["psnr"] == pytest.approx(20.0)  # 10 log10(1 / 0.01)


def test_similarity_equals_scikit_image_without_a_mask(vessels):
    generated = np.clip(vessels + 0.1 * np.sin(np.arange(400)), 0, 1)
    scores = image_similarity(vessels, generated)
    assert scores["psnr"] == pytest.approx(peak_signal_noise_ratio(vessels, generated, data_range=1))
    wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    assert scores["ssim"] == pytest.approx(structural_similarity(vessels, generated, data_range=1, **wang))


def test_equal_images(vessels):
    assert image_similarity(vessels, vessels) == {"mae": 0, "psnr": np.inf, "ssim": pytest.approx(1)}
    assert vessel_agreement(vessels, vessels) == {
        "vessel_auc": pytest.approx(1),
        "vessel_dice": pytest.approx(1),
        "vessel_correlation": pytest.approx(1),
    }


def test_inverted_image(vessels):
    scores = vessel_agreement(vessels, 1 - vessels)
    assert scores["vessel_auc"] == pytest.approx(0, abs=1e-9)
    assert scores["vessel_correlation"] == pytest.approx(-1)
    assert scores["vessel_dice"] < 0.05


def test_unrelated_image_is_at_chance(vessels):
    noise = np.random.default_rng(1).uniform(size=vessels.shape)
    scores = vessel_agreement(vessels, noise)
    assert scores["vessel_auc"] == pytest.approx(0.5, abs=0.05)
    assert scores["vessel_correlation"] == pytest.approx(0, abs=0.1)


def test_dice_by_hand():
    """Two bars of equal width that overlap by half: Dice 0.5. Wide bars, so that smoothing moves no edge."""
    real, generated = np.zeros((400, 400)), np.zeros((400, 400))
    real[:, 100:200] = 1
    generated[:, 150:250] = 1
    assert vessel_agreement(real, generated)["vessel_dice"] == pytest.approx(0.5, abs=0.02)


def test_auc_counts_ties_half():
    real, generated = np.zeros((400, 400)), np.full((400, 400), 0.5)
    real[:, :200] = 1
    scores = vessel_agreement(real, generated)
    assert scores["vessel_auc"] == pytest.approx(0.5)
    assert np.isnan(scores["vessel_dice"])  # one value all over: no threshold


def test_pixels_outside_the_field_do_not_count(vessels, half_field):
    generated = np.clip(vessels + 0.05, 0, 1)
    other_real, other_generated = vessels.copy(), generated.copy()
    other_real[~half_field] = 1
    other_generated[~half_field] = np.nan
    for measure in (image_similarity, vessel_agreement):
        assert measure(vessels, generated, half_field) == measure(other_real, other_generated, half_field)
        assert measure(vessels, generated, half_field) != measure(vessels, generated)


def test_smoothing_grows_with_the_image(vessels):
    """The same picture at twice the size gives the same answer, as the sigma is stated for 400 px."""
    random = np.random.default_rng(2)
    generated = np.clip(vessels + 0.3 * random.standard_normal(vessels.shape), 0, 1)
    large = [np.kron(image, np.ones((2, 2))) for image in (vessels, generated)]
    assert vessel_agreement(*large) == pytest.approx(vessel_agreement(vessels, generated), abs=0.01)


@pytest.mark.parametrize(
    ("real", "generated", "fov", "reason"),
    [
        (np.zeros((50, 50)), np.zeros((50, 50)), np.zeros((50, 50), bool), "no pixel lies inside the field"),
        (np.full((50, 50), np.nan), np.zeros((50, 50)), None, "not finite"),
    ],
)
def test_nothing_to_compute_on_is_nan_with_a_reason(real, generated, fov, reason, caplog):
    with caplog.at_level(logging.WARNING):
        scores = image_similarity(real, generated, fov) | vessel_agreement(real, generated, fov)
    assert scores.keys() == {*SIMILARITY_NAMES, *AGREEMENT_NAMES}
    assert all(np.isnan(value) for value in scores.values())
    assert reason in caplog.text


def test_no_vessel_is_nan_with_a_reason(vessels, caplog):
    scores = vessel_agreement(np.full((400, 400), 0.3), vessels)
    assert all(np.isnan(value) for value in scores.values())
    assert "no vessel" in caplog.text


def test_tiny_image_has_no_ssim_but_the_rest(caplog):
    scores = image_similarity(np.zeros((8, 8)), np.ones((8, 8)))
    assert np.isnan(scores["ssim"])
    assert scores["mae"] == 1
    assert "ssim" in caplog.text


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        image_similarity(np.zeros((8, 8)), np.zeros((8, 9)))
    with pytest.raises(ValueError, match="2-D"):
        vessel_agreement(np.zeros((8, 8, 1)), np.zeros((8, 8, 1)))


def test_vessel_map_and_its_density_by_hand():
    octa = np.full((100, 100), 0.2)
    octa[:, 20:40] = 0.8
    octa[:, 70:] = 1.0  # outside the field
    fov = np.zeros((100, 100), bool)
    fov[:, :60] = True
    vessels = vessel_map(octa, fov)
    assert np.array_equal(vessels, np.broadcast_to((np.arange(100) >= 20) & (np.arange(100) < 40), (100, 100)))
    assert vessel_density(vessels, fov) == pytest.approx(1 / 3)


def test_without_vessel_or_field_the_map_is_empty():
    assert not vessel_map(np.full((20, 20), 0.5), np.ones((20, 20), bool)).any()
    nowhere = np.zeros((20, 20), bool)
    assert not vessel_map(np.random.default_rng(0).random((20, 20)), nowhere).any()
    assert np.isnan(vessel_density(nowhere, nowhere))


@pytest.mark.parametrize("period", [2, 4, 8, 16])
def test_checkerboard_of_known_power(period):
    random = np.random.default_rng(0)
    everywhere = np.ones((400, 400), dtype=bool)
    noise = random.standard_normal((400, 400))
    board = 2.0 * ((np.indices((400, 400)) // (period // 2)).sum(axis=0) % 2) - 1  # a power of 1, as the noise
    assert checkerboard(noise, everywhere) == pytest.approx(0, abs=0.01)
    # A board's harmonics that lie on the grid count; fine boards have no others.
    assert checkerboard(noise + board, everywhere) == pytest.approx(0.5, abs=0.03)


def test_checkerboard_ignores_what_has_no_such_period(vessels):
    everywhere = np.ones((400, 400), dtype=bool)
    stripes = np.sin(np.arange(400) * 2 * np.pi / 11) * np.ones((400, 1))
    assert abs(checkerboard(vessels + stripes, everywhere)) < 0.02
    assert checkerboard(np.full((400, 400), 0.5), everywhere) == 0


def test_checkerboard_looks_inside_the_field_alone(half_field):
    noise = np.random.default_rng(0).standard_normal((400, 400))
    board = 2.0 * (np.indices((400, 400)).sum(axis=0) % 2)
    assert abs(checkerboard(noise + np.where(half_field, 0, board), half_field)) < 0.01
    assert np.isnan(checkerboard(noise, np.zeros((400, 400), dtype=bool)))
    assert np.isnan(checkerboard(noise[:100, :100], half_field[:100, :100]))


def test_rim_by_hand(half_field):
    real = np.full((400, 400), 0.3)
    even = artefacts(real, real + 0.1, half_field)
    assert even["rim"] == pytest.approx(1)
    columns = np.arange(400)
    glow = artefacts(real, real + np.where(columns >= 250 - 12, 0.3, 0.1), half_field)
    # 0.3 in the band of 12 px, 0.1 inside, but for what the smoothing carries over: equal gain and loss
    lost = 0.2 * 3 / np.sqrt(2 * np.pi)  # integral of the blurred step's tail, sigma 3 px
    assert glow["rim"] == pytest.approx((0.3 - lost / 12) / (0.1 + lost / (250 - 12)), rel=0.02)
    assert np.isnan(artefacts(real, real + 0.1)["rim"])


def test_artefacts_of_nothing(caplog):
    nothing = artefacts(np.zeros((200, 200)), np.zeros((200, 200)), np.zeros((200, 200), dtype=bool))
    assert list(nothing) == list(ARTEFACT_NAMES)
    assert all(np.isnan(list(nothing.values())))
    assert "no pixel lies inside the field" in caplog.text
