"""Which photographs there are, at which scale, and where their results go: each is done or named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from basics.command_line import OptionError, UserError
from pairs.origin import Origin, Record, printable, write_png
from retina.images import photo_digest, read_fundus
from run.settings import Settings
from synthesis.photographs import Job, check_jobs, list_dataset_jobs
from synthesis.photographs import list_jobs as list_all

COLUMNS = ("path", "vessel_density", "digest", "made_with")
ORIGIN = Origin("1a2b", "run/ckpt-7", "photos/a.jpg")
NOT_GIVEN = {"field_degrees": None, "px_per_mm": None, "mask": None}


def list_jobs(inputs, output=Path("out"), **given):
    """The photographs of some inputs."""
    return list_all(inputs, output, NOT_GIVEN | given)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


# --- folders and files -----------------------------------------------------------------------------------------------


def test_results_in_a_folder_are_no_photographs_and_counted(here, capsys):
    touch("photos/b.png")
    for name in ("a.png", "a_vessels.png"):
        write_png(np.zeros((9, 9), np.uint8), Path("photos", name), ORIGIN)
    assert list_jobs(["photos"]) == [Job(Path("photos/b.png"), Path("b.png"))]
    assert capsys.readouterr().out.startswith("photos: skipped 2 results of earlier commands;")


def test_result_that_is_named_is_used(here):
    write_png(np.zeros((9, 9), np.uint8), Path("a.png"), ORIGIN)
    Path("list.csv").write_text("path\na.png\n")
    assert list_jobs(["a.png"]) == list_jobs(["list.csv"]) == [Job(Path("a.png"), Path("a.png"))]


@pytest.mark.parametrize("output", [".", "..", "out", "photos/out"])
def test_all_photographs_are_found_wherever_the_output_folder_is(here, output, capsys):
    touch("photos/a.png", "photos/out/a.png", "photos/below/c.HEIC")
    names = ["a.png"] if output == "photos/out" else ["a.png", "out/a.png"]
    assert list_jobs(["photos"], Path(output)) == [Job(Path("photos", name), Path(name)) for name in names]
    assert capsys.readouterr().out.endswith("images: 1 .heic\n")


def test_photographs_that_differ_in_their_suffix_alone_keep_it(here):
    touch("photos/IMG.jpg", "photos/IMG.tif", "photos/OTHER.jpg")
    assert [str(job.target) for job in list_jobs(["photos"])] == ["IMG.jpg.png", "IMG.tif.png", "OTHER.png"]


def test_photograph_with_the_name_of_a_sheet_is_refused():
    with pytest.raises(OptionError, match=r"Sheet_1\.jpg: .* sheet of figures"):
        check_jobs([Job(Path("photos/Sheet_1.jpg"), Path("Sheet_1.png"))], Path("out"))


@pytest.mark.parametrize("targets", [("a.png", "a.png"), ("a.png", "a_vessels.png")])
def test_two_photographs_that_share_a_result_are_refused(targets):
    jobs = [Job(Path(folder, "a.jpg"), Path(target)) for folder, target in zip(("one", "two"), targets, strict=True)]
    with pytest.raises(OptionError, match=r"one/a\.jpg and two/a\.jpg would both be written to"):
        check_jobs(jobs, Path("out"))


def test_photograph_that_is_given_twice_is_done_once(here):
    touch("photos/a.png")
    assert list_jobs(["photos/a.png", "./photos"]) == list_jobs(["photos"])


def test_result_that_would_replace_a_mask_is_refused(here):
    with pytest.raises(OptionError, match="would overwrite an input"):
        check_jobs([Job(Path("a.jpg"), Path("a.png"), mask=Path("out/a_vessels.png"))], Path("out"))


# --- tables ----------------------------------------------------------------------------------------------------------


def test_record_with_other_columns_is_refused(here):
    Path("densities.csv").write_text("path,verdict\na.png,usable\n")  # as of 1.1.0
    with pytest.raises(OptionError, match=r"densities\.csv: .*another program or version"):
        Record(Path("densities.csv"), COLUMNS)


@pytest.mark.parametrize("name", ["b\udcff.png", "two\nlines.png", "NA"])
def test_photograph_of_any_name_has_its_row(here, name):
    Record(Path("densities.csv"), COLUMNS).add((printable(Path(name)), "0.1"), ORIGIN)
    assert Record(Path("densities.csv"), COLUMNS).origin(printable(Path(name))) == Origin("1a2b", "run/ckpt-7")


@pytest.mark.parametrize("missing", ["missing.png", "n" * 300 + ".png", "NA"])
def test_list_keeps_missing_files_and_the_subfolders_of_photographs_below_it(here, missing):
    touch("photos/below/ü.png", "b.png")
    Path("photos/list.csv").write_text(f"Path \n below\\ü.png\n../b.png\n{missing}\n", encoding="utf-8")
    jobs = list_jobs(["photos/list.csv"])
    assert [job.source for job in jobs] == [Path("photos", name) for name in ("below/ü.png", "../b.png", missing)]
    assert [str(job.target) for job in jobs[:2]] == ["below/ü.png", "b.png"]


# --- the scale of each photograph ------------------------------------------------------------------------------------


@pytest.fixture
def listed(here):
    """Two photographs, and a function that lists them with further columns."""
    touch("a.png", "b.png", "mask.png")

    def write(*lines, **given):
        Path("list.csv").write_text("\n".join(lines) + "\n")
        return list_jobs(["list.csv"], **given)

    return write


@pytest.mark.parametrize(
    ("columns", "cells", "degrees", "px_per_mm", "mask"),
    [
        ("PX_per_mm", '"7,5"', None, 7.5, "other.png"),  # never mixed with the other scale of the command
        ("field_degrees", "50", 50, None, "other.png"),
        ("mask", "mask.png", 30, None, "mask.png"),
    ],
)
def test_scale_and_mask_are_those_of_the_row_or_of_the_command(listed, columns, cells, degrees, px_per_mm, mask):
    (job,) = listed(f"path,{columns}", f"a.png,{cells}", field_degrees=30, mask=Path("other.png"))
    assert (job.field_degrees, job.px_per_mm, job.mask) == (degrees, px_per_mm, Path(mask))


@pytest.mark.parametrize(
    ("columns", "cells", "named"),
    [
        ("field_degrees", "5", r"row 2: field_degrees 5: must be from 10 to 200"),
        ("mask", "nowhere.png", r"row 2: mask nowhere\.png"),
        ("field_degrees,px_per_mm", "45,50", "row 2: has both field_degrees and px_per_mm"),
    ],
)
def test_wrong_cell_of_a_list_is_named_with_its_row(listed, columns, cells, named):
    with pytest.raises(UserError, match=named):
        listed(f"path,{columns}", f"a.png,{cells}")


def test_photograph_with_two_scales_is_refused(listed):
    with pytest.raises(OptionError, match=r"a\.png and a\.png would both be written to .*; give each once"):
        check_jobs(listed("path,px_per_mm", "a.png,50", "a.png,60"), Path("out"))


# --- tables of pairs -------------------------------------------------------------------------------------------------


def table_of_two(**columns):
    """Write pairs.csv of the subjects Ann and Bob; returns the digest of Ann's photograph."""
    rows = [["fundus", "octa", "subject", *columns]]
    for number, (name, subject) in enumerate((("a", "Ann"), ("b", "Bob"))):
        Image.new("RGB", (8, 8), (number, 9, 9)).save(f"{name}.png")
        rows.append([f"{name}.png", f"{name}.png", subject, *(values[number] for values in columns.values())])
    Path("pairs.csv").write_text("\n".join(map(",".join, rows)))
    return photo_digest(read_fundus(Path("a.png")))


def jobs_of_pairs(split=None, seen=()):
    return list_dataset_jobs(Path("pairs.csv"), split, Settings(), seen)


def test_width_of_a_crop_is_that_of_the_table(here):
    table_of_two(octa_mm=("3", ""))
    assert [job.width_mm for job in jobs_of_pairs("all")] == [3.0, None]


def test_seen_subjects_are_made_only_if_a_split_is_named(here):
    seen = [table_of_two()]
    assert [job.source.stem for job in jobs_of_pairs(seen=seen)] == ["b"]
    assert [job.source.stem for job in jobs_of_pairs("all", seen)] == ["a", "b"]
