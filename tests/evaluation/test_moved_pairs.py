"""Scores of pairs that registration moved: of the unmoved OCT-A, or stated to be of moved ones."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from eyes import (
    CROPPED,
    SHIFT,
    called,
    evaluated,
    save,
    start_run,
    table_of_eyes,
    vessels_of,
    write_layout_pair,
    write_table,
)

import dataset_load_mod
from alignment.registration import warp
from pairs.dataset import load_data_cases
from pairs.moved import moved_for_good

pytestmark = pytest.mark.slow
TABLE, LAYOUT = "moved/pairs.csv", "moved_data"  # registered


def read_rows(path):
    return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")


def registered(data, output):
    called(dataset_load_mod, "register", data, "--output", output)


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


def test_evaluation_of_pairs_moved_for_good_is_refused(lost):
    printed = evaluated(TABLE, "--split", "all", status=2).printed
    assert f"with {lost}, has moved 4 of its OCT-A and did not keep the unmoved ones" in printed


def moved_of(data):
    """How many pairs of a data set are known to be moved for good."""
    cases, _ = load_data_cases(Path(data), shares="1/0/0")
    return moved_for_good(Path(data), cases.itertuples(index=False))[0]


def test_only_the_pairs_that_were_moved_count(lost):
    rows = read_rows("moved/registration.csv")
    write_table(Path("moved/registration.csv"), [*rows[:3], rows[3] | {"verdict": "another"}])
    assert moved_of(TABLE) == 3
    assert moved_of(Path(LAYOUT, "UT-FSOCTA-v1")) == 4
    write_table(Path("moved/part.csv"), read_rows(TABLE)[2:])
    write_table(Path("moved/own.csv"), [{"fundus": "../photos/00.png", "octa": "../scans/00.png", "subject": "s00"}])
    assert (moved_of("moved/part.csv"), moved_of("moved/own.csv")) == (1, 0)


@pytest.mark.parametrize(("command", "options"), [("register", []), ("crop", ["--octa-mm", "6"])])
def test_moving_or_cropping_pairs_moved_for_good_is_refused(lost, refused, command, options):
    error = refused(dataset_load_mod, command, TABLE, "--output", "again", "--run", "run", *options)
    assert "has moved 4 of its OCT-A and did not keep the unmoved ones" in error


def test_cropping_registered_pairs_is_refused(pairs, refused):
    options = [TABLE, "--output", "cut", "--octa-mm", "6", "--run", "run"]
    assert "is registered (column octa_unmoved)" in refused(dataset_load_mod, "crop", *options)
