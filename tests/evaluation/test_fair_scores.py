"""No score is flattered: pairs that registration moved, seen subjects, controls from all eyes, unusable references."""

import shutil
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from eyes import (
    CROPPED,
    SHIFT,
    SIDE,
    called,
    evaluated,
    save,
    start_run,
    table_of_eyes,
    vessels_of,
    write_layout_pair,
    write_pair,
    write_table,
)

import dataset_load_mod
from alignment.registration import warp
from evaluation import evaluate
from pairs.dataset import load_data_cases
from pairs.moved import moved_for_good
from retina.images import photo_digest, read_fundus

pytestmark = pytest.mark.slow
TABLE, LAYOUT = "moved/pairs.csv", "moved_data"  # registered


def read_rows(path):
    return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")


def registered(data, output):
    called(dataset_load_mod, "register", data, "--output", output)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to run in, with a run."""
    monkeypatch.chdir(tmp_path)
    start_run()
    return tmp_path


# --- pairs that registration moved -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moved_pairs(tmp_path_factory):
    """A folder with a table and a data set in the study's layout, and both registered."""
    folder = tmp_path_factory.mktemp("moved")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        start_run()
        table_of_eyes(4, shift=SHIFT)
        for subject in range(31, 35):
            name = f"disc/{subject}_OD"
            write_layout_pair(name, SHIFT)
            save(255 * (warp(vessels_of(subject), SHIFT) > 0.5), CROPPED / f"GT_OCT_net/Thresh/{name}.png")
        registered("pairs.csv", "moved")
        registered("data", LAYOUT)
    return folder


@pytest.fixture
def pairs(moved_pairs, tmp_path, monkeypatch):
    """A copy of the same folder to run in."""
    shutil.copytree(moved_pairs, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")


@pytest.mark.parametrize(("given", "moved"), [("pairs.csv", TABLE), ("data", LAYOUT)])
def test_scores_of_registered_pairs_are_those_of_the_unmoved_ones(pairs, given, moved):
    assert [row["verdict"] for row in read_rows("moved/registration.csv")] == ["registered"] * 4
    before, after = (evaluated(data, "--split", "all").per_eye for data in (given, moved))
    pd.testing.assert_frame_equal(before, after)


def test_registered_pairs_keep_the_unmoved_octa_and_maps(pairs):
    row, written = read_rows(TABLE)[0], Path(LAYOUT, "UT-FSOCTA-v1/cropped")
    given = Path("scans/00.png").read_bytes()
    assert Path("moved", row["octa_unmoved"]).read_bytes() == given != Path("moved", row["octa"]).read_bytes()
    for file in ("octa/disc/31_OD.png", "GT_OCT_net/Thresh/disc/31_OD.png"):
        assert (
            (written / "unmoved" / file).read_bytes() == (CROPPED / file).read_bytes() != (written / file).read_bytes()
        )


@pytest.mark.parametrize("data", [TABLE, LAYOUT])
def test_registering_registered_pairs_starts_from_the_unmoved_ones(pairs, data):
    registered(data, "again")
    first = Path(data if Path(data).is_dir() else "moved")
    images = [path.relative_to("again") for path in Path("again").rglob("*.png")]
    assert images
    assert all(Path("again", name).read_bytes() == (first / name).read_bytes() for name in images)


@pytest.fixture
def lost(pairs):
    """The same without the unmoved OCT-A, as version 1.1.0 wrote them; returns the weights in the record."""
    rows = read_rows(TABLE)
    write_table(Path(TABLE), [{k: v for k, v in row.items() if k != "octa_unmoved"} for row in rows])
    shutil.rmtree("moved/octa_unmoved", ignore_errors=True)
    shutil.rmtree(f"{LAYOUT}/UT-FSOCTA-v1/cropped/unmoved", ignore_errors=True)
    return read_rows("moved/registration.csv")[0]["made_with"]


def test_lost_unmoved_pairs_are_stated_first_and_their_scores_not_called_unregistered(lost):
    found = evaluated(TABLE, "--split", "all")
    for first in (found.printed.splitlines()[0], found.report.partition("<p>")[2].splitlines()[0]):
        assert first.startswith("MOVED BEFOREHAND: registration has moved 4 OCT-A")
        assert lost in first
    assert "unregistered" not in found.printed + found.report
    assert "registered beforehand" in found.report


def moved_of(data):
    """How many pairs of a data set are known to be moved for good."""
    cases, _ = load_data_cases(Path(data), shares="1/0/0")
    return moved_for_good(Path(data), cases.itertuples(index=False))[0]


def test_octa_that_registration_left_in_place_do_not_count_as_moved(lost):
    rows = read_rows("moved/registration.csv")
    write_table(Path("moved/registration.csv"), [*rows[:1], *(row | {"verdict": "another"} for row in rows[1:])])
    assert moved_of(TABLE) == 1


def test_only_the_pairs_that_were_moved_count(lost):
    assert moved_of(Path(LAYOUT, "UT-FSOCTA-v1")) == 4
    write_table(Path("moved/part.csv"), read_rows(TABLE)[2:])
    write_table(Path("moved/own.csv"), [{"fundus": "../photos/00.png", "octa": "../scans/00.png", "subject": "s00"}])
    assert (moved_of("moved/part.csv"), moved_of("moved/own.csv")) == (2, 0)


@pytest.mark.parametrize(("command", "options"), [("register", []), ("crop", ["--octa-mm", "6"])])
def test_moving_or_cropping_pairs_moved_for_good_is_refused(lost, refused, command, options):
    error = refused(dataset_load_mod, command, TABLE, "--output", "again", "--run", "run", *options)
    assert "has moved 4 of its OCT-A and did not keep the unmoved ones" in error


def test_cropping_registered_pairs_is_refused(pairs, refused):
    options = [TABLE, "--output", "cut", "--octa-mm", "6", "--run", "run"]
    assert "is registered (column octa_unmoved)" in refused(dataset_load_mod, "crop", *options)


# --- controls --------------------------------------------------------------------------------------------------------


def measured(number, subject=None, eye="OD", side=8):
    """What is kept of an eye; its field is the first `number` rows."""
    case = SimpleNamespace(subject=number if subject is None else subject, eye=eye, region="disc")
    fov = np.broadcast_to(np.arange(side)[:, np.newaxis] < number, (side, side))
    return evaluate.Measured(case, {}, np.zeros((side, side), np.uint8), np.zeros((side, side), np.float16), fov)


@pytest.mark.parametrize(
    ("other", "certain"),
    [(("A", "OD"), False), (("A", ""), False), (("A", "OS"), True), (("B", "OD"), True), (("B", ""), True)],
)
def test_control_is_another_eye_for_certain(other, certain):
    own, other = measured(1, "A"), measured(2, *other)
    assert evaluate.other_eye(0, [own, other]) == (other if certain else None)


def test_control_is_the_next_eye_of_this_size_whose_field_overlaps_most():
    eyes = [measured(5), measured(3), measured(4), measured(5, "another", side=9)]
    assert evaluate.other_eye(0, eyes) is eyes[2]
    assert evaluate.other_eye(2, eyes) is eyes[0]  # after the end follows the start


def test_control_comes_from_any_block_of_eyes(here, monkeypatch):
    table_of_eyes(3)
    write_pair(0, Path("photos/00.png"), Path("scans/00.png"), side=80)  # the only one of its size
    together = evaluated("pairs.csv", "--split", "all")
    monkeypatch.setattr(evaluate, "EYES_AT_ONCE", 1)
    pd.testing.assert_frame_equal(together.per_eye, evaluated("pairs.csv", "--split", "all").per_eye)
    ours = together.per_eye.query("candidate == 'this run' and sector == 'whole'")
    assert (ours["control_vessel_auc"] < ours["registered_vessel_auc"] - 0.2).all()
    assert "without another eye of the same region and size: 1 of 3 crops" in together.report


# --- which subjects --------------------------------------------------------------------------------------------------


def test_table_without_splits_is_evaluated_on_all_subjects_that_the_run_has_not_seen(here):
    table_of_eyes(3)
    start_run([photo_digest(read_fundus(Path("photos/01.png")))])
    found = evaluated("pairs.csv")
    assert set(found.per_eye["subject"]) == {"s00", "s02"}
    assert "2 subjects (2 eyes, disc) of pairs.csv: all, because pairs.csv has no column split, except" in found.report
    assert "left out, see --include-seen" in found.report


def test_layout_without_a_test_subject_is_evaluated_on_all(here):
    for subject in (1, 2):
        write_layout_pair(f"disc/{subject}_OD")
    assert set(evaluated("data").per_eye["subject"]) == {1, 2}


# --- references of two levels, and unusable ones ---------------------------------------------------------------------


@pytest.fixture
def maps(here):
    """Two test subjects whose ground truth, a binary map and a compared map have the grey levels 0 and 1."""
    for subject, folder in product((31, 32), ("truth", "denoised_synthetic_octa/Thresh", "Iternet", "../../own")):
        name = f"disc/{subject}_OD"
        write_layout_pair(name)
        save(vessels_of(subject) > 0.5, CROPPED / folder / f"{name}.png")
        save(100 * vessels_of(subject), CROPPED / "denoised_synthetic_octa/noThresh" / f"{name}.png")
    return CROPPED / "truth/disc"


def test_map_with_values_0_and_1_scores_1_against_itself(maps):
    found = evaluated("data", "--compare-vessels", "net=data/own").per_eye
    dice = found[found["sector"] == "whole"].groupby("candidate")["dice"].min()
    assert dice[["net", "Iternet", "denoised_synthetic_octa"]].tolist() == [1, 1, 1]


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


@pytest.mark.parametrize(
    ("truth", "named"),
    [(np.zeros((SIDE, SIDE)), "no vessel"), (vessels_of(32) <= 0.5, "is it inverted?")],
    ids=["empty", "inverted"],
)
def test_unusable_reference_is_named_and_its_eye_left_out(maps, truth, named):
    save(truth, maps / "32_OD.png")
    found = evaluated("data", status=2)
    assert set(found.per_eye["subject"]) == {31}
    error = found.printed.splitlines()[-1]
    assert "truth/disc/32_OD.png: " in error
    assert named in error


def test_no_usable_reference_at_all_is_one_line(maps):
    for file in maps.iterdir():
        save(np.zeros((SIDE, SIDE)), file)
    error = evaluated("data", status=2).printed.splitlines()[-1]
    assert "error: no eye can be evaluated; " in error
    assert "truth/disc/31_OD.png: " in error
