"""What the evaluation measures of one region of one eye, compared with cases worked by hand."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import bar, macula
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
    octa = np.maximum(macula(0.3), 0.8 * truth)
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
    assert measured[0][em.REAL, "whole"]["vessel_density"] == pytest.approx(8 / 400)
    assert measured[0][em.REAL, "whole"]["skeleton_density"] == pytest.approx(1 / 6, rel=0.03)  # 6 mm in 36 mm2
    assert measured[0][em.REAL, "inner superior"]["vessel_density"] > 0.02
    assert measured[0][em.REAL, "centre"]["vessel_density"] == 0


def test_only_octa_have_pixel_measures_and_an_avascular_zone(measured):
    ours, net = (measured[0][name, "whole"] for name in ("this run", "net"))
    assert (ours["mae"], ours["faz_mm2"]) == (0, pytest.approx(np.pi * 0.09, rel=0.1))
    assert "mae" not in net
    assert np.isnan(net["faz_mm2"])


@pytest.mark.parametrize("name", ["net", em.SEGMENTED, *em.BASELINES])
def test_candidates_and_baselines_find_a_clear_vessel(measured, name):
    assert measured[0][name, "whole"]["roc_auc"] > 0.97


def test_pixels_are_counted_by_vessel_probability(measured):
    assert {tuple(count.sum(axis=1)) for count in measured[1].values()} == {(392 * 400, 8 * 400)}


def test_without_ground_truth_the_segmenter_makes_it(eye):
    rows, counts = em.measure_eye(replace(eye, vessels=None))
    assert next(row["cldice"] for row in rows if row["candidate"] == "this run") == 1
    assert em.SEGMENTED not in counts


def test_map_that_comes_with_a_vessel_probability_is_used(eye):
    own = replace(eye.candidates[1], vessels=bar(4, CROP, top=100))
    assert own.segment(eye.fov, eye.region)[1].mean() == 4 / 400


def test_probabilities_outside_the_field_do_not_count():
    left = np.broadcast_to(np.arange(80) < 40, (60, 80))
    assert not (em.Candidate("net", 1.0 * (bar(7) | ~left), False).segment(left, "disc")[1] & ~left).any()


def test_vessels_are_found_where_the_speckle_is_averaged_out(eye):
    ours = eye.candidates[0]
    noisy = replace(ours, image=ours.image + np.random.default_rng(0).normal(0, 0.5, CROP), averaged=ours.image)
    np.testing.assert_array_equal(noisy.segment(eye.fov, eye.region)[1], ours.segment(eye.fov, eye.region)[1])


def test_texture_is_that_of_the_octa_not_of_its_average(eye):
    ours = eye.candidates[0]
    blurred = replace(ours, averaged=gaussian_filter(ours.image, 5))
    rows, _ = em.measure_eye(replace(eye, candidates=(blurred,)))
    assert next(row["texture"] for row in rows if row["candidate"] == "this run") == 0


def test_grain_is_measured_at_the_disc_only(eye):
    rows, _ = em.measure_eye(replace(eye, region="disc"))
    assert {row["candidate"]: np.isfinite(row["grain"]) for row in rows if row["sector"] == "whole"} == {
        em.REAL: True,
        "this run": True,
        "net": False,
        em.SEGMENTED: False,
        "green channel": True,
        "ridge filter": False,
    }
    assert all(np.isnan(row["grain"]) for row in em.measure_eye(eye)[0])


def test_this_run_agrees_with_the_registered_octa_better_than_another_eye(eye, measured):
    own = em.Kept.of(eye)
    control = em.control_agreements(own, replace(own, prediction=ACROSS))
    assert (
        measured[0]["this run", "whole"]["registered_vessel_correlation"] > control["control_vessel_correlation"] + 0.3
    )


def test_what_is_kept_of_an_eye_is_its_octa_field_and_prediction(eye):
    kept = em.Kept.of(replace(eye, fov=bar(300, CROP)))
    np.testing.assert_allclose(kept.octa / 255, eye.octa, atol=0.002)
    np.testing.assert_allclose(kept.prediction, eye.candidates[0].seen, atol=0.001)
    np.testing.assert_array_equal(kept.fov, bar(300, CROP))


def test_a_crop_of_400_px_takes_half_a_megabyte_until_all_are_measured(eye):
    kept = em.Kept.of(eye)
    assert kept.octa.nbytes + kept.prediction.nbytes + kept.packed_fov.nbytes == 500_000
