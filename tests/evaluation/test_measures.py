"""What the evaluation reads and measures of one eye, compared with cases worked by hand, and its control."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import bar
from eyes import save
from scipy.ndimage import gaussian_filter
from skimage.morphology import skeletonize

import evaluation.measures as em
from evaluation import evaluate
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
    """The rows by candidate and sector."""
    return {(row["candidate"], row["sector"]): row for row in em.measure_eye(eye)}


def test_densities_of_an_eye(measured):
    rows = {sector: measured[em.REAL, sector] for sector in SECTORS["macula"]}
    assert rows["whole"]["vessel_density"] == pytest.approx(8 / 400)
    assert rows["whole"]["skeleton_density"] == pytest.approx(1 / 6, rel=0.03)  # 6 mm in 36 mm2
    assert rows["inner superior"]["vessel_density"] > 0.02
    assert rows["centre"]["vessel_density"] == 0


@pytest.mark.parametrize("name", ["net", em.SEGMENTED, *em.BASELINES])
def test_candidates_and_baselines_find_a_clear_vessel(measured, name):
    assert measured[name, "whole"]["roc_auc"] > 0.97


def test_without_ground_truth_the_segmenter_makes_it(eye):
    rows = em.measure_eye(replace(eye, vessels=None))
    assert next(row["cldice"] for row in rows if row["candidate"] == "this run") == 1
    assert em.SEGMENTED not in {row["candidate"] for row in rows}


def test_map_that_comes_with_a_vessel_probability_is_used_inside_the_field(eye):
    own = replace(eye.candidates[1], vessels=bar(4, CROP, top=100))
    left = np.broadcast_to(np.arange(400) < 100, CROP)
    assert own.segment(left, eye.region)[1].mean() == 1 / 400


def test_vessels_are_found_without_speckle_but_texture_is_that_of_the_octa(eye):
    blurred = replace(eye.candidates[0], averaged=ACROSS)
    rows = em.measure_eye(replace(eye, candidates=(blurred,)))
    ours = next(row for row in rows if row["candidate"] == "this run")
    assert (ours["texture"], ours["mae"]) == (0, 0)
    assert ours["dice"] < 0.1


def test_registration_corrects_a_displaced_octa(eye):
    displaced = np.roll(eye.octa, 6, axis=0)
    plain, registered = (em.agreement(way, displaced, eye.octa, EVERYWHERE) for way in ("", em.REGISTERED))
    assert registered["registered_vessel_correlation"] > plain["vessel_correlation"] + 0.2


# --- what is read, and the control ----------------------------------------------------------------------------------


def kept(number, subject=None, eye="OD", side=8):
    """What is kept of an eye; its field is the first `number` rows."""
    case = SimpleNamespace(subject=number if subject is None else subject, eye=eye, region="disc")
    fov = np.broadcast_to(np.arange(side)[:, np.newaxis] < number, (side, side))
    return evaluate.Measured(case, {}, np.zeros((side, side), np.uint8), np.zeros((side, side), np.float16), fov)


@pytest.mark.parametrize(
    ("other", "certain"),
    [(("A", "OD"), False), (("A", ""), False), (("A", "OS"), True), (("B", "OD"), True), (("B", ""), True)],
)
def test_control_is_another_eye_for_certain(other, certain):
    own, other = kept(1, "A"), kept(2, *other)
    assert evaluate.other_eye(0, [own, other]) == (other if certain else None)


def test_control_is_the_next_eye_of_this_size_whose_field_overlaps_most():
    eyes = [kept(5), kept(3), kept(4), kept(5, "another", side=9)]
    assert evaluate.other_eye(0, eyes) is eyes[2]
    assert evaluate.other_eye(2, eyes) is eyes[0]  # after the end follows the start


def reader():
    """An evaluation that only reads images."""
    return evaluate.Evaluation(Path("data"), pd.DataFrame(), [], None, None, True)


@pytest.mark.parametrize(
    ("levels", "inside", "read"),
    [
        *(((low, high), (True, True), (0, 1)) for low, high in ((0, 1), (0, 255), (3, 7), (254, 255))),
        ((0, 51, 102), (True, True, True), (0, 0.2, 0.4)),  # a vessel probability is not stretched
        ((0, 1, 2), (False, True, True), (0, 0, 1)),  # levels outside the field do not count
    ],
)
def test_the_higher_of_two_levels_is_vessel(tmp_path, levels, inside, read):
    save(np.repeat([levels], 4, axis=0), tmp_path / "x.png")
    found = reader().read_vessels(tmp_path / "x.png", np.repeat([inside], 4, axis=0))[0]
    assert np.where(inside, found, 0) == pytest.approx(read)


def test_image_of_another_size_than_its_photograph_is_named(tmp_path):
    evaluation = reader()
    save(np.zeros((20, 30)), tmp_path / "x.png")
    assert evaluation.read(tmp_path / "x.png", (40, 60)) is None
    assert evaluation.faults == [f"{tmp_path / 'x.png'}: 30 x 20 px, but its photograph has 60 x 40 px"]


def scores_of(truth, vessels, fov=True):
    return em.vessel_scores(truth, vessels.astype(float), vessels, np.broadcast_to(fov, truth.shape))


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
    assert scores_of(truth, narrow)["cldice"] == pytest.approx(2 * complete / (1 + complete))
    assert scores_of(narrow, truth)["cldice"] == pytest.approx(2 * complete / (1 + complete))  # the branch is invented


def test_without_ground_truth_vessels_only_dice_and_specificity_remain():
    scores = scores_of(bar(0), bar(7))
    assert [name for name, score in scores.items() if np.isfinite(score)] == ["dice", "specificity"]


def test_vessels_outside_the_field_do_not_count():
    left = np.broadcast_to(np.arange(80) < 40, (60, 80))
    assert scores_of(bar(7), bar(7) ^ ~left, left)["dice"] == 1
