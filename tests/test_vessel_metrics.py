"""The measures against cases worked by hand and against scikit-image."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import pearsonr, spearmanr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.morphology import skeletonize

from vessel_metrics import (
    AGREEMENT_NAMES,
    ARTEFACT_NAMES,
    QUADRANTS,
    REAL,
    SECTORS,
    SEGMENTED,
    SIMILARITY_NAMES,
    VESSEL_SCORE_NAMES,
    Candidate,
    EyeToMeasure,
    artefacts,
    bland_altman,
    checkerboard,
    correlations,
    foveal_avascular_zone,
    image_similarity,
    mean_of_eyes,
    measure_eye,
    paired_difference,
    resample_subjects,
    sector_masks,
    skeleton_density,
    skeleton_lengths,
    vessel_agreement,
    vessel_density,
    vessel_map,
    vessel_scores,
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


# --- vessel maps -----------------------------------------------------------------------------------------------------


def bar(width, shape=(60, 80), top=20):
    """A horizontal bar that is `width` px wide, from side to side."""
    image = np.zeros(shape, dtype=bool)
    image[top : top + width] = True
    return image


def everywhere(image):
    return np.ones(image.shape, dtype=bool)


def test_perfect_and_inverted_vessel_maps():
    truth = bar(7)
    scores = vessel_scores(truth, truth.astype(float), truth, everywhere(truth))
    assert scores == dict.fromkeys(VESSEL_SCORE_NAMES, 1.0)
    scores = vessel_scores(truth, 1 - truth, ~truth, everywhere(truth))
    assert [scores[name] for name in ("roc_auc", "dice", "sensitivity", "specificity", "cldice")] == [0] * 5
    assert scores["average_precision"] == pytest.approx(truth.mean())  # no threshold finds any but all


def test_vessel_scores_by_hand():
    """The map has the upper half of a bar of 8 px, and as much again above it."""
    truth, vessels = bar(8), bar(8, top=16)
    scores = vessel_scores(truth, vessels.astype(float), vessels, everywhere(truth))
    assert (scores["dice"], scores["sensitivity"]) == (0.5, 0.5)
    assert scores["specificity"] == pytest.approx(1 - 4 / 52)
    assert scores["roc_auc"] == pytest.approx((0.5 + 1 - 4 / 52) / 2)  # of two levels: the mean of the two rates
    assert scores["average_precision"] == pytest.approx(0.5 * 0.5 + 0.5 * 8 / 60)


def test_cldice_sees_a_missing_branch_and_not_the_width():
    truth = bar(9)
    truth[29:60, 36:45] = True  # a branch, about half as long as the bar
    narrow = bar(3, top=23)
    scores = vessel_scores(truth, narrow.astype(float), narrow, everywhere(truth))
    true_line = skeletonize(truth)
    complete = narrow[true_line].mean()
    assert 0.5 < complete < 0.8
    assert scores["cldice"] == pytest.approx(2 * complete / (1 + complete))
    assert scores["dice"] < 0.5
    swapped = vessel_scores(narrow, truth.astype(float), truth, everywhere(truth))  # now the branch is invented
    assert swapped["cldice"] == pytest.approx(scores["cldice"])


def test_vessel_scores_without_a_vessel_or_outside_the_field():
    truth, none = bar(7), np.zeros((60, 80), dtype=bool)
    scores = vessel_scores(none, truth.astype(float), truth, everywhere(truth))
    assert [name for name, score in scores.items() if np.isnan(score)] == [
        *("roc_auc", "average_precision", "sensitivity", "cldice")
    ]
    left = everywhere(truth)
    left[:, 40:] = False
    wrong_outside = truth ^ ~left
    assert vessel_scores(truth, wrong_outside.astype(float), wrong_outside, left)["dice"] == 1
    with pytest.raises(ValueError, match="four 2-D arrays of one shape"):
        vessel_scores(truth, truth[:5], truth, left)


@pytest.mark.parametrize(("rise", "length"), [(0, 60), (1, 60 * np.sqrt(2))])
def test_length_of_a_line(rise, length):
    image = np.zeros((80, 80), dtype=bool)
    steps = np.arange(61)
    image[10 + rise * steps, 10 + steps] = True
    assert skeleton_lengths(image).sum() == pytest.approx(length)
    assert skeleton_lengths(image[:, ::-1]).sum() == pytest.approx(length)
    region = everywhere(image)
    assert skeleton_density(skeleton_lengths(image), region, 0.01) == pytest.approx(length * 0.01 / 0.64)


@pytest.mark.parametrize("angle", range(0, 180, 15))
def test_length_of_a_thick_line_at_any_angle(angle):
    rows, columns = np.ogrid[:300, :300]
    direction = np.exp(1j * np.deg2rad(angle))
    place = ((columns - 150) + 1j * (rows - 150)) * np.conj(direction)
    image = (abs(place.imag) < 3) & (abs(place.real) < 100)
    assert 0.95 < skeleton_lengths(image).sum() / 200 < 1.11


def test_length_is_shared_between_regions():
    image = bar(1)
    lengths = skeleton_lengths(image)
    assert lengths[:, :40].sum() + lengths[:, 40:].sum() == pytest.approx(79)
    assert lengths[:, :40].sum() == pytest.approx(39.5)
    assert np.isnan(skeleton_density(lengths, np.zeros_like(image), 0.01))


# --- foveal avascular zone -------------------------------------------------------------------------------------------


def macula(radius_mm, middle=(200, 190)):
    """Speckle of mean 0.3 with a round hole, at 0.015 mm per px."""
    rows, columns = np.ogrid[:400, :400]
    hole = np.hypot(rows - middle[0], columns - middle[1]) * 0.015 < radius_mm
    speckle = np.random.default_rng(0).uniform(0, 0.6, (400, 400))
    return np.where(hole, 0.2 * speckle, speckle)


@pytest.mark.parametrize("radius", [0.2, 0.3, 0.45])
def test_avascular_zone_of_known_area(radius):
    image = macula(radius)
    zone = foveal_avascular_zone(image, everywhere(image), 0.015)
    assert zone.sum() * 0.015**2 == pytest.approx(np.pi * radius**2, rel=0.08)
    assert zone[200, 190]
    dimmer = foveal_avascular_zone(0.5 * image, everywhere(image), 0.015)
    assert np.array_equal(zone, dimmer)


def test_no_avascular_zone():
    image = macula(0.3)
    flat = np.random.default_rng(0).uniform(0, 0.6, (400, 400))
    assert foveal_avascular_zone(flat, everywhere(flat), 0.015) is None
    open_zone = image.copy()
    open_zone[195:240, 190:] *= 0.2  # dark up to the crop's border
    assert foveal_avascular_zone(open_zone, everywhere(image), 0.015) is None
    fov = everywhere(image)
    fov[100:300, 100:300] = False
    assert foveal_avascular_zone(image, fov, 0.015) is None


# --- sectors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("region", "side"), [("disc", 4.5), ("macula", 6.0)])
def test_sectors_have_their_areas_and_do_not_overlap(region, side):
    fov = np.ones((400, 400), dtype=bool)
    masks = sector_masks(fov, region, "OD", side / 400)
    assert tuple(masks) == SECTORS[region]
    rings = {"ring": (2, 4), "inner": (1, 3), "outer": (3, 6)}
    for name, mask in masks.items():
        if name == "whole":
            area = side**2
        elif name == "centre":
            area = np.pi / 4
        else:
            low, high = rings[name.split()[0]]
            area = np.pi * (high**2 - low**2) / 16
        assert mask.sum() * (side / 400) ** 2 == pytest.approx(area, rel=0.02), name
    assert sum(mask.astype(int) for name, mask in masks.items() if name != "whole").max() == 1


@pytest.mark.parametrize("region", ["disc", "macula"])
def test_mirrored_eyes_have_equal_sectors(region):
    fov = np.ones((400, 400), dtype=bool)
    right, left = (sector_masks(fov, region, eye, 0.015) for eye in ("OD", "OS"))
    for name, mask in right.items():
        assert np.array_equal(mask, left[name][:, ::-1]), name
    side = "ring" if region == "disc" else "inner"
    assert np.nonzero(right[f"{side} nasal"])[1].min() > 200  # nasal is to the right in a right eye
    assert np.nonzero(right[f"{side} superior"])[0].max() < 200


def test_sectors_that_are_not_seen_are_none():
    fov = np.ones((400, 400), dtype=bool)
    fov[:, 260:] = False
    masks = sector_masks(fov, "disc", "OD", 4.5 / 400)
    assert [name for name, mask in masks.items() if mask is None] == [*("ring superior", "ring nasal", "ring inferior")]
    small = sector_masks(np.ones((400, 400), dtype=bool), "macula", "OD", 3 / 400)  # a crop of 3 mm
    assert [name for name, mask in small.items() if mask is None] == [f"outer {name}" for name in QUADRANTS]
    assert sector_masks(np.zeros((9, 9), dtype=bool), "disc", "OS", 0.5)["whole"] is None


# --- one eye ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def eye():
    """A macula with a dark vessel of 8 px on an uneven fundus, and the same bright in the OCT-A."""
    truth = bar(8, (400, 400), top=100)
    light = np.linspace(60, 180, 400)
    fundus = np.repeat((np.where(truth, 0.7, 1.0) * light)[..., np.newaxis], 3, axis=2).astype(np.uint8)
    octa = np.maximum(macula(0.3), 0.8 * truth)
    ours = Candidate("this run", octa, True)
    probability = Candidate("net", gaussian_filter(truth.astype(float), 1), False)
    return EyeToMeasure(fundus, octa, truth, everywhere(truth), "macula", "OD", 0.015, (ours, probability))


def test_measures_of_an_eye(eye):
    rows, counts = measure_eye(eye)
    whole = {row["candidate"]: row for row in rows if row["sector"] == "whole"}
    assert set(whole) == {REAL, "this run", "net", SEGMENTED, "green channel", "ridge filter"}
    assert len(rows) == 6 * len(SECTORS["macula"])
    assert whole[REAL]["vessel_density"] == pytest.approx(8 / 400)
    assert whole[REAL]["skeleton_density"] == pytest.approx(1 / 6, rel=0.03)  # 6 mm in 36 mm2
    assert whole["this run"]["mae"] == 0
    assert whole["net"]["dice"] > 0.85
    assert "mae" not in whole["net"]
    assert whole["this run"]["faz_mm2"] == whole[REAL]["faz_mm2"] == pytest.approx(np.pi * 0.09, rel=0.1)
    assert whole[SEGMENTED]["roc_auc"] > 0.99
    for floor in ("green channel", "ridge filter"):
        assert whole[floor]["roc_auc"] > 0.97
    for name, count in counts.items():
        assert count.sum(axis=1).tolist() == [392 * 400, 8 * 400], name
    inner = {row["sector"]: row["vessel_density"] for row in rows if row["candidate"] == REAL}
    assert inner["centre"] == 0
    assert inner["inner superior"] > 0.02


def test_truth_of_the_segmenter_is_applied_alike(eye):
    rows, counts = measure_eye(replace(eye, vessels=None))
    ours = next(row for row in rows if row["candidate"] == "this run")
    assert (ours["dice"], ours["cldice"]) == (1, 1)
    assert SEGMENTED not in counts


def test_map_that_comes_with_a_likelihood_is_taken(eye):
    own = Candidate("net", eye.candidates[1].image, False, vessels=bar(4, (400, 400), top=100))
    rows, _ = measure_eye(replace(eye, candidates=(own,)))
    assert next(row for row in rows if row["candidate"] == "net")["vessel_density"] == pytest.approx(4 / 400)


# --- across eyes -----------------------------------------------------------------------------------------------------


def test_both_eyes_of_a_subject_are_drawn_together():
    drawn = resample_subjects(np.array([5, 5, 7, 9, 9, 9]), 500, 0)
    assert drawn.shape == (500, 6)
    assert np.array_equal(drawn[:, 0], drawn[:, 1])
    assert np.array_equal(drawn[:, 3], drawn[:, 5])
    assert set(drawn[:, [0, 2, 3]].sum(axis=1)) == {3}
    assert np.array_equal(drawn, resample_subjects(np.array([5, 5, 7, 9, 9, 9]), 500, 0))
    assert not np.array_equal(drawn, resample_subjects(np.array([5, 5, 7, 9, 9, 9]), 500, 1))


def simulated(random, subjects, rho, within):
    """Two values for both eyes of subjects, correlated by rho; the eyes of a subject by `within`."""
    covariance = np.array([[1, rho], [rho, 1]])
    shared = random.multivariate_normal([0, 0], within * covariance, subjects)
    own = random.multivariate_normal([0, 0], (1 - within) * covariance, 2 * subjects)
    return (np.repeat(shared, 2, axis=0) + own).T


def test_correlations_are_those_of_scipy_and_of_resampled_eyes():
    random = np.random.default_rng(0)
    real, other = simulated(random, 300, 0.8, 0.7)
    other[:3] = other[3]  # ties
    subjects = np.repeat(np.arange(300), 2)
    found = correlations(real, other, resample_subjects(subjects, 400, 0))
    assert found["pearson"] == pytest.approx(0.8, abs=0.04)
    assert found["pearson_low"] < 0.8 < found["pearson_high"]
    one = np.ones((1, len(real)), dtype=int)
    one[0, :4], one[0, 10] = 3, 0
    again = np.repeat(np.arange(len(real)), one[0])  # each eye as often as it is drawn
    repeated = correlations(real, other, one)
    assert repeated["pearson_low"] == pytest.approx(pearsonr(real[again], other[again]).statistic)
    assert repeated["spearman_low"] == pytest.approx(spearmanr(real[again], other[again]).statistic)
    assert np.isnan(correlations(real, np.ones_like(real), one)["pearson"])


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """And would not if eyes were drawn instead of subjects: two eyes that are all but one hold little more than one."""
    random = np.random.default_rng(1)
    subjects = np.repeat(np.arange(40), 2)
    hits = {"mean": 0, "pearson": 0, "mean, eyes drawn": 0}
    for trial in range(300):
        real, other = simulated(random, 40, 0.7, 0.9)
        drawn = resample_subjects(subjects, 300, trial)
        mean, r = mean_of_eyes(other, drawn), correlations(real, other, drawn)
        eyes = mean_of_eyes(other, resample_subjects(np.arange(80), 300, trial))
        hits["mean"] += mean["low"] < 0 < mean["high"]
        hits["pearson"] += r["pearson_low"] < 0.7 < r["pearson_high"]
        hits["mean, eyes drawn"] += eyes["low"] < 0 < eyes["high"]
    assert 0.90 < hits["mean"] / 300 < 0.98
    assert 0.89 < hits["pearson"] / 300 < 0.98
    assert hits["mean, eyes drawn"] / 300 < 0.88


def test_bland_altman_by_hand():
    real = np.array([0.1, 0.2, 0.3, 0.4])
    other = real + np.array([0.01, 0.03, 0.01, 0.03])
    found = bland_altman(real, other, resample_subjects(np.arange(4), 1000, 0))
    sd = np.sqrt(4 * 0.01**2 / 3)
    assert found["bias"] == pytest.approx(0.02)
    assert (found["limit_low"], found["limit_high"]) == pytest.approx((0.02 - 1.96 * sd, 0.02 + 1.96 * sd))
    assert 0.0099 < found["bias_low"] < 0.02 < found["bias_high"] < 0.0301


def test_paired_difference_is_tested_over_subjects():
    random = np.random.default_rng(2)
    subjects = np.repeat(np.arange(12), 2)
    one = random.uniform(0.7, 0.9, 24)
    difference = 0.01 * np.arange(1, 25)
    drawn = resample_subjects(subjects, 200, 0)
    found = paired_difference(one, one - difference, subjects, drawn)
    assert found["difference"] == pytest.approx(0.125)
    assert found["p"] == pytest.approx(2 / 2**12)  # all of 12 subjects on one side; 24 eyes would give 2 / 2**24
    assert paired_difference(one, one, subjects, drawn)["p"] == 1
