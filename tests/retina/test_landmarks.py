"""Disc, fovea and side of simulated photographs, whose positions are known."""

import numpy as np
import pytest
from scipy.ndimage import zoom

from retina.landmarks import Landmarks, find_landmarks
from simulation.eye import make_eye
from simulation.fundus import render_fundus
from simulation.trees import Window

SIDE, MM = 400, 13.2
EYES = [(subject, eye) for subject in (1, 2) for eye in ("OD", "OS")]


@pytest.fixture(scope="module")
def photographs():
    """Photograph, vessels, field of view, px per mm, and the true disc and fovea, of each of EYES."""
    made = {}
    for subject, side in EYES:
        eye = make_eye(subject, side, seed=5)
        window = Window(eye.field.centre, MM, SIDE)
        trees = eye.vessels(window, 0.03)
        fov = abs(window.points() - eye.field.centre) < eye.field.radius
        vessels = (trees["artery"].merge(trees["vein"]).depth > 0) & fov
        fundus = render_fundus(eye, window, eye.vessels(window), eye.rng("full field"))
        places = [(place - window.centre) * window.px_per_mm + (1 + 1j) * (SIDE - 1) / 2 for place in (eye.disc, 0j)]
        made[subject, side] = fundus, vessels, fov, window.px_per_mm, [np.array([at.imag, at.real]) for at in places]
    return made


@pytest.mark.parametrize("key", EYES)
def test_disc_fovea_and_side_are_found(photographs, key):
    fundus, vessels, fov, px_per_mm, (disc, fovea) = photographs[key]
    found = find_landmarks(fundus, vessels, fov, px_per_mm)
    assert np.hypot(*(found.disc - disc)) < 0.4 * px_per_mm
    assert np.hypot(*(found.fovea - fovea)) < 0.4 * px_per_mm
    assert found.eye == key[1]


@pytest.mark.parametrize("factor", [0.5, 2])
def test_places_do_not_depend_on_the_size(photographs, factor):
    fundus, vessels, fov, px_per_mm, _ = photographs[EYES[0]]
    one = find_landmarks(fundus, vessels, fov, px_per_mm)
    images = zoom(fundus, (factor, factor, 1), order=1), *(zoom(image, factor, order=0) for image in (vessels, fov))
    other = find_landmarks(*images, px_per_mm * factor)
    assert np.hypot(*np.subtract(other.fovea, np.multiply(one.fovea, factor))) < 0.2 * px_per_mm * factor


@pytest.mark.parametrize(("eye", "below"), [("OD", 0.1 + 0.2), ("OS", 0.1 - 0.2)])
def test_line_from_disc_to_fovea_tells_how_a_photograph_is_turned(eye, below):
    aside = np.cos(below) if eye == "OS" else -np.cos(below)
    fovea = 100 + 90 * np.sin(below), 100 + 90 * aside
    assert Landmarks((100.0, 100.0), fovea, eye).turned == pytest.approx(0.2)


def test_fovea_that_is_out_of_sight_is_not_guessed(photographs):
    fundus, vessels, fov, px_per_mm, (disc, _) = photographs[EYES[0]]
    rows, columns = np.ogrid[:SIDE, :SIDE]
    near = np.hypot(rows - disc[0], columns - disc[1]) < 3.5 * px_per_mm
    found = find_landmarks(fundus * near[..., np.newaxis].astype(np.uint8), vessels & near, fov & near, px_per_mm)
    assert (found.fovea, found.eye) == (None, "")


def test_without_vessels_nothing_is_found(photographs):
    fundus, vessels, fov, px_per_mm, _ = photographs[EYES[0]]
    assert find_landmarks(fundus, np.zeros_like(vessels), fov, px_per_mm) == Landmarks()
