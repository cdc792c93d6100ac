"""Two folders of images -> a table of pairs."""

from pathlib import Path

import numpy as np
import pytest
from conftest import fake_fundus, fake_octa, files_below
from PIL import Image

import dataset_load_mod as program
from basics.files import read_table
from pairs.table import read_pairs

SCANS = ("octa/Ann_OD.tif", "octa/Ann_OS.tif", "octa/old/Bob L.tif", "octa/12right.tif", "octa/scan.tif")
PHOTOGRAPHS = ("fundus/Ann_OD.png", "fundus/Ann_OS.jpg", "fundus/old/Bob L.png", "fundus/12right.png", "fundus/x.png")


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """A folder of photographs and one of OCT-A, of the names that a clinic gives."""
    monkeypatch.chdir(tmp_path)
    fundus = fake_fundus(np.random.default_rng(0), 40, 50)
    for name in (*SCANS, *PHOTOGRAPHS):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(fundus if name in PHOTOGRAPHS else fake_octa(fundus)).save(name)
    Path("octa/notes.txt").write_text("")


def test_names_give_pairs_subjects_and_eyes():
    assert program.main(["pair", "fundus", "octa", "--output", "pairs.csv"]) == 0
    assert [(row["fundus"], row["octa"], row["subject"], row["eye"]) for row in read_table(Path("pairs.csv"))] == [
        ("fundus/12right.png", "octa/12right.tif", "12", "OD"),
        ("fundus/Ann_OD.png", "octa/Ann_OD.tif", "Ann", "OD"),
        ("fundus/Ann_OS.jpg", "octa/Ann_OS.tif", "Ann", "OS"),
        ("fundus/old/Bob L.png", "octa/old/Bob L.tif", "old/Bob", "OS"),
    ]
    assert len(read_pairs(Path("pairs.csv"), "80/10/10")) == 4


def test_what_is_left_over_is_named(capsys):
    program.main(["pair", "fundus", "octa", "--output", "pairs.csv"])
    printed = capsys.readouterr().out
    assert "left over, without OCT-A of its name: fundus/x.png\n" in printed
    assert "left over, without photograph of its name: octa/scan.tif\n" in printed
    assert "left over in octa: 1 .txt\n" in printed


@pytest.mark.parametrize("name", ["Colonel.png", "L.png", "12.png", "bird.png"])
def test_name_without_an_eye_is_the_subject(name):
    for folder in ("f", "o"):
        Path(folder).mkdir()
        Image.new("L", (9, 9)).save(Path(folder, name))
    program.main(["pair", "f", "o", "--output", "pairs.csv"])
    (row,) = read_table(Path("pairs.csv"))
    assert (row["subject"], row["eye"]) == (name[:-4], "")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("fundus missing --output pairs.csv", "missing: no such folder"),
        ("fundus octa --output notes.csv", "notes.csv: exists"),
        ("fundus octa --output table", "--output table: must be a table"),
        ("fundus fundus --output pairs.csv", "is the folder of the photographs, too"),
        ("fundus empty --output pairs.csv", "no two images have the same name"),
        ("twice octa --output pairs.csv", "have the same name without suffix"),
    ],
)
def test_what_cannot_be_paired_is_refused_and_nothing_is_written(options, named, refused):
    Path("notes.csv").write_text("")
    for folder, names in (("empty", ()), ("twice", ("a.png", "a.jpg"))):
        Path(folder).mkdir()
        for name in names:
            Image.new("L", (9, 9)).save(Path(folder, name))
    before = files_below(Path())
    assert named in refused(program, "pair", *options.split())
    assert files_below(Path()) == before
