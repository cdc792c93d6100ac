"""Vessel maps, their densities and scores, compared with cases worked by hand."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import retina.vessels as vm
from retina.ut_fsocta import CROP_MM

CROP = (400, 400)
EVERYWHERE = np.ones(CROP, dtype=bool)


@pytest.mark.parametrize(("region", "classes"), [("disc", 3), ("macula", 4), (None, vm.OCTA_CLASSES[None])])
def test_vessel_map_is_the_brightest_class_inside_the_field(region, classes):
    octa = np.repeat(np.linspace(0.1, 0.9, classes), 80) * np.ones((80, 1))  # a band of 80 px for each class
    band = np.broadcast_to(np.arange(-80 * classes, 0) >= -80, octa.shape)
    fov = np.broadcast_to(np.arange(-80 * classes, 0) < -20, octa.shape)
    assert np.mean(vm.vessel_map(octa, fov, region) == (band & fov)) > 0.99
    assert vm.vessel_density(band, fov) == 60 / (80 * classes - 20)
    assert np.isnan(vm.vessel_density(band, fov & False))


@pytest.mark.parametrize("region", ["disc", "macula", None])
@pytest.mark.parametrize(("octa", "fov"), [(np.full(CROP, 0.5), EVERYWHERE), (np.indices(CROP)[0] / 400, ~EVERYWHERE)])
def test_without_grey_levels_or_field_there_are_no_vessels(octa, fov, region):
    assert np.isnan(vm.vessel_threshold(octa[fov], region))
    assert not vm.vessel_map(octa, fov, region).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_auc_equals_scikit_learn(dtype):
    random = np.random.default_rng(0)
    vessels = random.random(100_000) < 0.2
    probability = np.round(random.random(100_000) + 0.2 * vessels, 2).astype(dtype)  # with ties
    assert vm.roc_auc(vessels, probability) == pytest.approx(roc_auc_score(vessels, probability), abs=1e-9)


@pytest.mark.parametrize(("rise", "length"), [(0, 60), (-1, 60 * np.sqrt(2))])
def test_length_of_a_line(rise, length):
    image, steps = np.zeros((80, 80), dtype=bool), np.arange(-30, 31)
    image[40 + rise * steps, 40 + steps] = True
    lengths = vm.skeleton_lengths(image)
    assert (lengths.sum(), lengths[:, :40].sum()) == pytest.approx((length, length / 2), abs=1)
    assert vm.skeleton_density(lengths, image | True, 0.01) == pytest.approx(length * 0.01 / 0.64)


@pytest.mark.parametrize("angle", range(0, 90, 15))
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


def test_sectors_lie_around_a_given_centre():
    rows, columns = np.nonzero(vm.sector_masks(EVERYWHERE, "macula", "OD", 0.015, (120.0, 250.0))["centre"])
    assert (rows.mean(), columns.mean()) == pytest.approx((120, 250), abs=0.5)


def test_sectors_turn_with_the_image():
    upright, turned = (vm.sector_masks(EVERYWHERE, "disc", "OD", 4.5 / 400, None, turn) for turn in (0.0, np.pi / 2))
    assert (turned["ring nasal"] == upright["ring superior"]).mean() > 0.995  # except for diagonals


def test_sectors_that_depend_on_an_unknown_eye_are_none():
    masks = vm.sector_masks(EVERYWHERE, "disc", "", 4.5 / 400)
    assert [name for name, mask in masks.items() if mask is None] == ["ring nasal", "ring temporal"]
