"""The measures of images and of vessel maps, compared with cases worked by hand and with scikit-image."""

import numpy as np
import pytest
from conftest import bar
from skimage.metrics import structural_similarity
from skimage.morphology import skeletonize
from sklearn.metrics import roc_auc_score

import retina.vessels as vm
from retina.ut_fsocta import CROP_MM

CROP = (400, 400)
EVERYWHERE = np.ones(CROP, dtype=bool)
HALF = np.broadcast_to(np.arange(400) < 250, CROP)
VESSELS = np.where(abs(np.arange(400) - 164.5) < 15, 0.8, 0.2) + 0.1 * np.random.default_rng(0).standard_normal(CROP)
VESSELS = VESSELS.clip(0, 1)  # a bright bar with speckle


@pytest.fixture
def registry(monkeypatch):
    """The registered scores, restored after the test."""
    monkeypatch.setattr(vm, "VALIDATION_SCORES", dict(vm.VALIDATION_SCORES))
    monkeypatch.setattr(vm, "_measures", list(vm._measures))


def test_validation_scores_are_the_registered_ones_in_order():
    names = ["mae", "psnr", "ssim", "vessel_auc", "vessel_dice", "vessel_correlation"]
    names += ["texture", "grey_levels", "checkerboard", "rim"]
    assert list(vm.validation_scores(VESSELS, VESSELS)) == list(vm.VALIDATION_SCORES) == names


def test_new_score_is_one_decorated_function(registry):
    @vm.validation_score(brightness="mean of the generated image")
    def brightness(real, generated, fov):
        return {"brightness": generated[fov].mean()}

    assert vm.validation_scores(VESSELS, VESSELS)["brightness"] == VESSELS.mean()
    assert vm.VALIDATION_SCORES["brightness"] == "mean of the generated image"


@pytest.mark.parametrize("returned", [("one",), ("one", "two", "three"), ("one", "three")])
def test_missing_or_unregistered_score_is_an_error(registry, returned):
    @vm.validation_score(one="", two="")
    def measure(real, generated, fov):
        return dict.fromkeys(returned, 0.0)

    with pytest.raises(ValueError, match=r"two|three"):
        vm.validation_scores(VESSELS, VESSELS)


def test_score_cannot_be_registered_twice(registry):
    with pytest.raises(ValueError, match="mae"):
        vm.validation_score(mae="")(lambda real, generated, fov: {"mae": 0.0})


def test_mean_scores_are_those_of_the_crops_that_have_them():
    one, two = (dict.fromkeys(vm.VALIDATION_SCORES, value) | {"rim": np.nan} for value in (1.0, 2.0))
    means = vm.mean_scores([one | {"ssim": np.nan}, two])
    assert (means["mae"], means["ssim"], means["rim"]) == pytest.approx((1.5, 2, np.nan), nan_ok=True)


@pytest.mark.parametrize("names", [[*vm.VALIDATION_SCORES, "other"], list(vm.VALIDATION_SCORES)[1:]])
def test_mean_scores_refuse_foreign_and_missing_names(names):
    with pytest.raises(ValueError, match=r"other|mae"):
        vm.mean_scores([dict.fromkeys(names, 1.0)])


@pytest.mark.parametrize("shape", [(8, 9), (8, 8, 1)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"8, 8, 1|8, 9"):
        vm.validation_scores(np.zeros(shape), np.zeros((8, 8)))


@pytest.mark.parametrize(("value", "inside"), [(0.0, False), (np.nan, True)])
def test_images_that_cannot_be_compared_give_nan_with_a_reason(value, inside, caplog):
    scores = vm.validation_scores(np.full((50, 50), value), np.zeros((50, 50)), np.full((50, 50), inside))
    assert np.isnan(list(scores.values())).all()
    assert all(name in caplog.text for name in vm.VALIDATION_SCORES)


def test_pixels_outside_the_field_do_not_count():
    generated = np.clip(VESSELS + 0.05 * np.sin(np.arange(400)), 0, 1)
    changed = np.where(HALF, VESSELS, 1), np.where(HALF, generated, np.nan)
    assert vm.validation_scores(VESSELS, generated, HALF) == vm.validation_scores(*changed, HALF)


def test_mae_and_psnr_by_hand():
    generated = np.where(np.arange(400) % 2, 0.4, 0.6) * np.ones(CROP)
    scores = vm.image_similarity(np.full(CROP, 0.5), generated, HALF)
    assert (scores["mae"], scores["psnr"]) == pytest.approx((0.1, 20))  # 10 log10(1 / 0.01)


def test_ssim_equals_scikit_image_without_a_mask():
    generated = np.clip(VESSELS + 0.1 * np.sin(np.arange(400)), 0, 1)
    wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    ssim = structural_similarity(VESSELS, generated, data_range=1, **wang)
    assert vm.image_similarity(VESSELS, generated)["ssim"] == pytest.approx(ssim)
    assert np.isnan(vm.image_similarity(VESSELS[:8], generated[:8])["ssim"])  # smaller than its window


def test_scores_of_equal_and_of_inverted_images():
    best = {"mae": 0, "psnr": np.inf, "ssim": 1, "vessel_auc": 1, "vessel_dice": 1, "vessel_correlation": 1}
    scores, inverted = (vm.validation_scores(VESSELS, image) for image in (VESSELS, 1 - VESSELS))
    assert {name: scores[name] for name in best} == pytest.approx(best)
    assert [inverted[name] for name in vm.vessel_agreement.names] == pytest.approx([0, 0, -1], abs=0.05)


def test_dice_of_two_bars_that_overlap_by_half():
    real, generated = np.zeros(CROP), np.zeros(CROP)
    real[:, 100:200], generated[:, 150:250] = 1, 1  # wide bars, so that smoothing moves no edge
    assert vm.vessel_agreement(real, generated)["vessel_dice"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("real", "generated", "auc"), [(HALF, HALF * 0, 0.5), (HALF * 0, HALF, np.nan)])
def test_uniform_images_have_no_vessel_map_and_a_reason(real, generated, auc, caplog):
    scores = vm.vessel_agreement(real, generated)
    assert list(scores.values()) == pytest.approx([auc, np.nan, np.nan], nan_ok=True)
    assert "vessel_dice" in caplog.text


def test_agreement_does_not_depend_on_the_image_size():
    generated = np.clip(VESSELS + 0.3 * np.random.default_rng(2).standard_normal(CROP), 0, 1)
    large = [np.kron(image, np.ones((2, 2))) for image in (VESSELS, generated)]
    assert vm.vessel_agreement(*large) == pytest.approx(vm.vessel_agreement(VESSELS, generated), abs=0.01)


def speckle(seed, spread=0.1):
    """Noise about a grey of 0.5: (400, 400)."""
    return 0.5 + spread * np.random.default_rng(seed).uniform(-1, 1, CROP)


def test_octaves_of_white_noise_have_their_known_power():
    """Of noise with variance v, a difference of Gaussians keeps v / pi * (1 / 4a2 + 1 / 4b2 - 1 / (a2 + b2))."""
    powers = vm.octave_powers(speckle(0, 0.4), EVERYWHERE)
    low, high = np.array(vm.OCTAVES[1:-1]), np.array(vm.OCTAVES[2:])  # below 1 px a Gaussian is no longer continuous
    expected = 0.4**2 / 3 / np.pi * (1 / (4 * low**2) + 1 / (4 * high**2) - 1 / (low**2 + high**2))
    np.testing.assert_allclose(powers[1:], expected, rtol=0.1)


def test_speckle_of_half_the_contrast_has_a_quarter_of_the_power():
    scores = vm.likeness(speckle(0), 0.5 + (speckle(0) - 0.5) / 2)
    assert scores["texture"] == pytest.approx(2)  # octaves


def test_speckle_need_not_lie_where_the_other_has_it():
    scores = vm.likeness(speckle(0), speckle(1))
    assert scores["texture"] < 0.1
    assert scores["grey_levels"] < 0.01
    assert vm.image_similarity(speckle(0), speckle(1))["mae"] > 0.05


def test_distance_of_grey_levels_is_how_far_they_are_shifted():
    scores = vm.likeness(speckle(0), speckle(0) + 0.125)
    assert scores["grey_levels"] == pytest.approx(0.125)
    assert scores["texture"] == pytest.approx(0, abs=1e-6)


def test_vessels_are_no_texture():
    """A vessel that one image lacks changes nothing between the vessels of the other."""
    ground = vm.ground_of(VESSELS, EVERYWHERE)
    assert not ground[:, 150:180].any()
    assert ground[:, :140].any()


def test_texture_without_ground_is_nan_with_a_reason(caplog):
    fov = ~EVERYWHERE
    fov[:4, :4] = True  # all of it near a vessel
    scores = vm.likeness(speckle(0), speckle(0), fov)
    assert np.isnan(list(scores.values())).all()
    assert "no ground" in caplog.text


POLAR = np.hypot(*vm.from_middle(CROP)), np.arctan2(*vm.from_middle(CROP)[::-1])


@pytest.mark.parametrize(
    ("image", "expected"),
    [(np.sin(40 * POLAR[1]), 0.97), (np.sin(POLAR[0] / 2), -0.97), (speckle(0), 0)],
    ids=["rays", "rings", "noise"],
)
def test_grain_along_across_and_without_direction(image, expected):
    assert vm.grain(image, EVERYWHERE, CROP_MM["disc"] / 400) == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize("period", [2, 4, 8, 16])
def test_checkerboard_of_known_power(period):
    noise = np.random.default_rng(0).standard_normal(CROP)
    board = 2.0 * ((np.indices(CROP) // (period // 2)).sum(axis=0) % 2) - 1  # a power of 1, as the noise
    assert vm.checkerboard(noise, EVERYWHERE) == pytest.approx(0, abs=0.01)
    # A board's harmonics that lie on the grid count; fine boards have no others.
    assert vm.checkerboard(noise + board, EVERYWHERE) == pytest.approx(0.5, abs=0.03)
    assert abs(vm.checkerboard(noise + np.where(HALF, 0, board), HALF)) < 0.01


def test_checkerboard_ignores_other_periods():
    stripes = np.sin(np.arange(400) * 2 * np.pi / 11)
    assert abs(vm.checkerboard(VESSELS + stripes, EVERYWHERE)) < 0.02
    assert vm.checkerboard(np.full(CROP, 0.5), EVERYWHERE) == 0
    assert np.isnan(vm.checkerboard(VESSELS, np.indices(CROP)[0] < 100))  # no window in the field


def test_rim_by_hand():
    real, columns = np.full(CROP, 0.3), np.arange(400)
    assert vm.artefacts(real, real + 0.1, HALF)["rim"] == pytest.approx(1)
    assert np.isnan(vm.artefacts(real, real + 0.1)["rim"])  # no border of the field
    glow = vm.artefacts(real, real + np.where(columns >= 250 - 12, 0.3, 0.1), HALF)
    # 0.3 in the band of 12 px, 0.1 inside, except for what smoothing carries over
    lost = 0.2 * 3 / np.sqrt(2 * np.pi)  # integral of the blurred step's tail, sigma 3 px
    assert glow["rim"] == pytest.approx((0.3 - lost / 12) / (0.1 + lost / (250 - 12)), rel=0.02)


def scores_of(truth, vessels, fov=True):
    return vm.vessel_scores(truth, vessels.astype(float), vessels, np.broadcast_to(fov, truth.shape))


@pytest.mark.parametrize(("region", "classes"), [("disc", 3), ("macula", 4), (None, vm.OCTA_CLASSES[None])])
def test_vessel_map_is_the_brightest_class_inside_the_field(region, classes):
    octa = np.repeat(np.linspace(0.1, 0.9, classes), 80) * np.ones((80, 1))  # a band of 80 px for each class
    band = np.broadcast_to(np.arange(-80 * classes, 0) >= -80, octa.shape)
    fov = np.broadcast_to(np.arange(-80 * classes, 0) < -20, octa.shape)
    assert np.mean(vm.vessel_map(octa, fov, region) == (band & fov)) > 0.99
    assert vm.vessel_density(band, fov) == 60 / (80 * classes - 20)
    assert np.isnan(vm.vessel_density(band, fov & False))


@pytest.mark.parametrize("region", ["disc", "macula", None])
@pytest.mark.parametrize(("octa", "fov"), [(np.full(CROP, 0.5), EVERYWHERE), (VESSELS, ~EVERYWHERE)])
def test_without_grey_levels_or_field_there_are_no_vessels(octa, fov, region):
    assert vm.vessel_threshold(octa[fov], region) is None
    assert not vm.vessel_map(octa, fov, region).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_auc_equals_scikit_learn(dtype):
    random = np.random.default_rng(0)
    vessels = random.random(100_000) < 0.2
    probability = np.round(random.random(100_000) + 0.2 * vessels, 2).astype(dtype)  # with ties
    assert vm.roc_auc(vessels, probability) == pytest.approx(roc_auc_score(vessels, probability), abs=1e-9)


@pytest.mark.parametrize(("vessels", "score"), [(bar(7), 1), (~bar(7), 0)])
def test_scores_of_the_perfect_and_the_inverted_vessel_map(vessels, score):
    scores = scores_of(bar(7), vessels)
    assert scores.pop("average_precision") == max(score, bar(7).mean())  # inverted: only all pixels contain the vessel
    assert list(scores.values()) == [score] * 5


def test_vessel_scores_by_hand():
    """The map has the upper half of a bar of 8 px, and as much again above it."""
    rates = {"sensitivity": 0.5, "specificity": 1 - 4 / 52}
    areas = {"roc_auc": (0.5 + 1 - 4 / 52) / 2, "average_precision": 0.5 * 0.5 + 0.5 * 8 / 60}  # of two levels
    scores = scores_of(bar(8), bar(8, top=16))
    assert scores == pytest.approx(rates | areas | {"dice": 0.5, "cldice": scores["cldice"]})


def test_cldice_counts_a_missing_branch_but_not_the_width():
    truth, narrow = bar(9).copy(), bar(3, top=23)
    truth[29:60, 36:45] = True  # a branch, about half as long as the bar
    complete = narrow[skeletonize(truth)].mean()
    assert 0.5 < complete < 0.8
    assert scores_of(truth, narrow)["cldice"] == pytest.approx(2 * complete / (1 + complete))
    assert scores_of(narrow, truth)["cldice"] == pytest.approx(2 * complete / (1 + complete))  # the branch is invented


def test_without_ground_truth_vessels_only_dice_and_specificity_remain():
    scores = scores_of(bar(0), bar(7))
    assert [name for name, score in scores.items() if np.isfinite(score)] == ["dice", "specificity"]


def test_vessels_outside_the_field_do_not_count():
    left = np.broadcast_to(np.arange(80) < 40, (60, 80))
    assert scores_of(bar(7), bar(7) ^ ~left, left)["dice"] == 1


@pytest.mark.parametrize(("rise", "length"), [(0, 60), (1, 60 * np.sqrt(2)), (-1, 60 * np.sqrt(2))])
def test_length_of_a_line(rise, length):
    image, steps = np.zeros((80, 80), dtype=bool), np.arange(-30, 31)
    image[40 + rise * steps, 40 + steps] = True
    lengths = vm.skeleton_lengths(image)
    assert (lengths.sum(), lengths[:, :40].sum()) == pytest.approx((length, length / 2), abs=1)
    assert vm.skeleton_density(lengths, image | True, 0.01) == pytest.approx(length * 0.01 / 0.64)


@pytest.mark.parametrize("angle", range(0, 180, 15))
def test_length_of_a_thick_line_at_any_angle(angle):
    rows, columns = np.ogrid[-150:150, -150:150]
    place = (columns + 1j * rows) * np.exp(-1j * np.deg2rad(angle))
    image = (abs(place.imag) < 3) & (abs(place.real) < 100)
    assert 0.95 < vm.skeleton_lengths(image).sum() / 200 < 1.11


@pytest.mark.parametrize("region", ["disc", "macula"])
def test_sectors_have_their_areas_and_do_not_overlap(region):
    side = CROP_MM[region]
    masks = vm.sector_masks(EVERYWHERE, region, "OD", side / 400)
    assert tuple(masks) == vm.SECTORS[region]
    areas = {"centre": np.pi / 4, "ring": np.pi * 12 / 16, "inner": np.pi * 8 / 16, "outer": np.pi * 27 / 16}
    for name, mask in masks.items():
        area = side**2 if name == "whole" else areas[name.split()[0]]
        assert mask.sum() * (side / 400) ** 2 == pytest.approx(area, rel=0.02), name
    assert sum(mask.astype(int) for name, mask in masks.items() if name != "whole").max() == 1


@pytest.mark.parametrize(("region", "ring"), [("disc", "ring"), ("macula", "inner")])
def test_mirrored_eyes_have_mirrored_sectors(region, ring):
    right, left = (vm.sector_masks(EVERYWHERE, region, eye, 0.015) for eye in ("OD", "OS"))
    assert all(np.array_equal(mask, left[name][:, ::-1]) for name, mask in right.items())
    assert np.nonzero(right[f"{ring} nasal"])[1].min() > 200  # nasal is to the right in a right eye
    assert np.nonzero(right[f"{ring} superior"])[0].max() < 200


def test_sectors_outside_field_or_crop_are_none():
    masks = vm.sector_masks(np.broadcast_to(np.arange(400) < 260, CROP), "disc", "OD", 4.5 / 400)
    assert [name for name, mask in masks.items() if mask is None] == [f"ring {name}" for name in vm.QUADRANTS[:3]]
    small = vm.sector_masks(EVERYWHERE, "macula", "OD", 3 / 400)  # a crop of 3 mm
    assert [name for name, mask in small.items() if mask is None] == [f"outer {name}" for name in vm.QUADRANTS]
    assert vm.sector_masks(~EVERYWHERE, "disc", "OS", 0.5)["whole"] is None


def test_sectors_that_depend_on_an_unknown_eye_are_none():
    masks = vm.sector_masks(EVERYWHERE, "disc", "", 4.5 / 400)
    assert [name for name, mask in masks.items() if mask is None] == ["ring nasal", "ring temporal"]


def test_a_pair_without_a_region_has_no_sectors():
    assert list(vm.sector_masks(EVERYWHERE, "other", "OD", 0.015)) == ["whole"]


@pytest.mark.parametrize(("diameter", "kept"), [(None, [1, 49, 50]), (1000, [50]), (500, [49, 50]), (1500, [])])
def test_specks_are_removed_by_their_size_at_a_field_of_1000_px(diameter, kept):
    vessels = np.zeros((40, 120), bool)
    for number, area in enumerate((1, 49, 50)):
        rows, columns = np.divmod(np.arange(area), 7)
        vessels[2 + rows, 40 * number + 2 + columns] = True
    parts = np.split(vm.without_specks(vessels, diameter), 3, axis=1)
    assert [part.sum() for part in parts if part.any()] == kept
