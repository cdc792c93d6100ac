"""Registered pairs: their scores are those of the unmoved OCT-A, and without these they are refused."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from eyes import SHIFT, called, evaluated, start_run, table_of_eyes, write_layout_pair, write_table

import dataset_load_mod
import pix_pix_eval

pytestmark = pytest.mark.slow
TABLE = "moved/pairs.csv"  # registered


def read_rows(path):
    return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")


def registered(data, output):
    called(dataset_load_mod, "register", data, "--output", output)


@pytest.fixture(scope="module")
def moved_pairs(tmp_path_factory):
    """A folder with a table, and the same registered."""
    folder = tmp_path_factory.mktemp("moved")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        start_run()
        table_of_eyes(4, shift=SHIFT)
        registered("pairs.csv", "moved")
    return folder


@pytest.fixture
def pairs(moved_pairs, tmp_path, monkeypatch):
    """A copy of the same folder to run in."""
    shutil.copytree(moved_pairs, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")


def test_scores_of_registered_pairs_are_those_of_the_unmoved_ones(pairs):
    assert [row["verdict"] for row in read_rows("moved/registration.csv")] == ["registered"] * 4
    before, after = (evaluated(data, "--split", "all").per_eye for data in ("pairs.csv", TABLE))
    pd.testing.assert_frame_equal(before, after)


def test_registering_registered_pairs_starts_from_the_unmoved_ones(pairs):
    registered(TABLE, "again")
    images = [path.relative_to("again") for path in Path("again").rglob("*.png")]
    assert images
    assert all(Path("again", name).read_bytes() == Path("moved", name).read_bytes() for name in images)


@pytest.mark.parametrize("command", ["evaluate", "register", "crop"])
def test_registered_pairs_without_the_unmoved_ones_are_refused(pairs, refused, command):
    """As version 1.1.0 wrote them."""
    write_table(Path(TABLE), [{k: v for k, v in row.items() if k != "octa_unmoved"} for row in read_rows(TABLE)])
    if command == "evaluate":
        error = refused(pix_pix_eval, "--data", TABLE, "--run", "run")
    else:
        error = refused(dataset_load_mod, command, TABLE, "--output", "again", "--run", "run")
    assert f"{TABLE}: was registered (registration.csv), but has no column octa_unmoved" in error


def test_layout_that_an_earlier_version_registered_is_refused(pairs, refused):
    write_layout_pair("disc/31_OD", SHIFT)
    Path("data/registration.csv").touch()
    assert "was registered by an earlier version" in refused(pix_pix_eval, "--data", "data", "--run", "run")


def test_cropping_registered_pairs_is_refused(pairs, refused):
    options = [TABLE, "--output", "cut", "--octa-mm", "6", "--run", "run"]
    assert "is registered (column octa_unmoved)" in refused(dataset_load_mod, "crop", *options)
