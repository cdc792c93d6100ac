"""What the evaluation measures of one region of one eye, compared with cases worked by hand."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import bar
from scipy.ndimage import gaussian_filter

import evaluation.measures as em
from retina.vessels import SECTORS

CROP = (400, 400)
EVERYWHERE = np.ones(CROP, dtype=bool)
ACROSS = 0.2 + 0.6 * bar(8, CROP, top=300).T  # a prediction with a vessel at right angles


@pytest.fixture(scope="module")
def eye():
    """A macula with a dark vessel of 8 px on an uneven fundus, and the same bright in the OCT-A."""
    truth = bar(8, CROP, top=100)
    fundus = np.repeat((np.where(truth, 0.7, 1.0) * np.linspace(60, 180, 400))[..., np.newaxis], 3, axis=2)
    octa = np.maximum(np.random.default_rng(0).uniform(0, 0.6, CROP), 0.8 * truth)
    net = em.Candidate("net", gaussian_filter(truth.astype(float), 1), False)
    candidates = em.Candidate("this run", octa, True), net
    return em.EyeToMeasure(fundus.astype(np.uint8), octa, truth, EVERYWHERE, "macula", "OD", 0.015, candidates)


@pytest.fixture(scope="module")
def measured(eye):
    """The rows by candidate and sector, and the counts."""
    rows, counts = em.measure_eye(eye)
    return {(row["candidate"], row["sector"]): row for row in rows}, counts


def test_eye_has_a_row_for_each_candidate_and_sector(measured):
    names = [em.REAL, "this run", "net", em.SEGMENTED, *em.BASELINES]
    assert list(measured[0]) == [(name, sector) for name in names for sector in SECTORS["macula"]]


def test_densities_of_an_eye(measured):
    rows = {sector: measured[0][em.REAL, sector] for sector in SECTORS["macula"]}
    assert rows["whole"]["vessel_density"] == pytest.approx(8 / 400)
    assert rows["whole"]["skeleton_density"] == pytest.approx(1 / 6, rel=0.03)  # 6 mm in 36 mm2
    assert rows["inner superior"]["vessel_density"] > 0.02
    assert rows["centre"]["vessel_density"] == 0


def test_only_octa_have_pixel_measures(measured):
    assert measured[0]["this run", "whole"]["mae"] == 0
    assert "mae" not in measured[0]["net", "whole"]


@pytest.mark.parametrize("name", ["net", em.SEGMENTED, *em.BASELINES])
def test_candidates_and_baselines_find_a_clear_vessel(measured, name):
    assert measured[0][name, "whole"]["roc_auc"] > 0.97


def test_pixels_are_counted_by_vessel_probability(measured):
    assert {tuple(count.sum(axis=1)) for count in measured[1].values()} == {(392 * 400, 8 * 400)}


def test_without_ground_truth_the_segmenter_makes_it(eye):
    rows, counts = em.measure_eye(replace(eye, vessels=None))
    assert next(row["cldice"] for row in rows if row["candidate"] == "this run") == 1
    assert em.SEGMENTED not in counts


def test_map_that_comes_with_a_vessel_probability_is_used_inside_the_field(eye):
    own = replace(eye.candidates[1], vessels=bar(4, CROP, top=100))
    left = np.broadcast_to(np.arange(400) < 100, CROP)
    assert own.segment(left, eye.region)[1].mean() == 1 / 400


def test_vessels_are_found_without_speckle_but_texture_is_that_of_the_octa(eye):
    blurred = replace(eye.candidates[0], averaged=ACROSS)
    rows, _ = em.measure_eye(replace(eye, candidates=(blurred,)))
    ours = next(row for row in rows if row["candidate"] == "this run")
    assert (ours["texture"], ours["mae"]) == (0, 0)
    assert ours["dice"] < 0.1


def test_this_run_agrees_with_the_registered_octa_better_than_another_eye(eye, measured):
    control = em.agreement(em.CONTROL, eye.octa, ACROSS, EVERYWHERE)
    ours = measured[0]["this run", "whole"]
    assert ours["registered_vessel_correlation"] > control["control_vessel_correlation"] + 0.3


def test_registration_corrects_a_displaced_octa(eye):
    displaced = np.roll(eye.octa, 6, axis=0)
    plain, registered = (em.agreement(way, displaced, eye.octa, EVERYWHERE) for way in ("", em.REGISTERED))
    assert registered["registered_vessel_correlation"] > plain["vessel_correlation"] + 0.2
