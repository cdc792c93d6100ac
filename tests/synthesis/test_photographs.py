"""Names and tables as people and their programs write them: each photograph is done or named, and no row is lost."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from basics.command_line import OptionError, UserError
from basics.files import read_table
from pairs.finished import Origin, Record, printable, read_origin, write_png
from retina.images import photo_digest, read_fundus
from run.settings import Settings
from synthesis.photographs import Job, check_jobs, list_dataset_jobs
from synthesis.photographs import list_jobs as list_all

COLUMNS = ("path", "vessel_density", "digest", "made_with")
ORIGIN = Origin("1a2b", "run/ckpt-7", "photos/a.jpg")
NOT_GIVEN = {"field_degrees": None, "px_per_mm": None, "mask": None}


def list_jobs(inputs, output, **given):
    """The photographs of some inputs."""
    return list_all(inputs, output, NOT_GIVEN | given).jobs


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def as_excel_saves_it(separator, encoding):
    """The bytes of a table of densities with one row, as programs for tables save it."""
    lines = [separator.join(COLUMNS), separator.join(("a.png", "0.1", "1a2b", "run/ckpt-7")), ""]
    return "\r\n".join(lines).encode(encoding)


@pytest.fixture
def results(here):
    """A folder with a photograph, `b.png`, and two results of an earlier command, `a.png` and `a_figure.png`."""
    Path("photos").mkdir()
    Image.new("L", (9, 9)).save("photos/b.png")
    for name in ("a.png", "a_figure.png"):
        write_png(np.zeros((9, 9), np.uint8), Path("photos", name), ORIGIN)


def test_table_is_read_by_column(here):
    Path("a.csv").write_text('path,eye\n"b, c.png",OD\nd.png\n')
    assert read_table(Path("a.csv")) == [{"path": "b, c.png", "eye": "OD"}, {"path": "d.png", "eye": ""}]


def test_row_with_too_many_cells_is_named(here):
    Path("a.csv").write_text("path\na.png\nb.png,c.png\n")
    with pytest.raises(OptionError, match="row 3"):
        read_table(Path("a.csv"))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_rows_of_a_table_that_excel_saved_are_kept(here, separator, encoding):
    Path("densities.csv").write_bytes(as_excel_saves_it(separator, encoding))
    Record(Path("densities.csv"), COLUMNS).add(("b.png", "0.1"), ORIGIN)
    assert [row["path"] for row in read_table(Path("densities.csv"))] == ["a.png", "b.png"]


def test_table_with_other_columns_is_refused_and_unchanged(here):
    Path("densities.csv").write_text("path,density\na.png,0.1\n")
    with pytest.raises(OptionError, match=r"densities\.csv: damaged, or from another"):
        Record(Path("densities.csv"), COLUMNS)


def test_table_that_is_no_text_is_refused(here):
    Path("densities.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OptionError, match=r"densities\.csv: is not in UTF-8"):
        Record(Path("densities.csv"), COLUMNS)


@pytest.mark.parametrize("name", ["b\udcff.png", "two\nlines.png", "NA", "sp ace.png", "ü.png"])
def test_photograph_of_any_name_has_its_row(here, name):
    Record(Path("densities.csv"), COLUMNS).add((printable(Path(name)), "0.1"), ORIGIN)
    assert Record(Path("densities.csv"), COLUMNS).origin(printable(Path(name))) == Origin("1a2b", "run/ckpt-7")


def test_row_of_a_table_may_be_named_na(here):
    Path("list.csv").write_text("path\nNA\n")
    assert [job.source for job in list_jobs(["list.csv"], Path("out"))] == [Path("NA")]


@pytest.mark.parametrize(
    ("header", "cell"),
    [("Path ", "below/ü.png"), ("path", "below\\ü.png"), ("path", " below/ü.png "), ("eye;PATH", "OD;below/ü.png")],
)
def test_list_is_read_as_a_table_of_pairs(here, header, cell):
    Path("below").mkdir()
    Path("below/ü.png").touch()
    Path("list.csv").write_text(f"{header}\n{cell}\n", encoding="utf-8")
    assert list_jobs(["list.csv"], Path("out")) == [Job(Path("below/ü.png"), Path("below/ü.png"))]


@pytest.mark.parametrize("missing", ["missing.png", "n" * 300 + ".png", "a\\missing.png"])
def test_missing_file_stays_in_the_list(here, missing):
    Path("a.png").touch()
    Path("list.csv").write_text(f"path\n{missing}\na.png\n")
    assert [job.source for job in list_jobs(["list.csv"], Path("out"))] == [Path(missing), Path("a.png")]


@pytest.mark.parametrize("row", [".", "/", "a/.."])
def test_row_that_names_no_file_is_refused(here, row):
    Path("list.csv").write_text(f"path\na.png\n{row}\n")
    with pytest.raises(OptionError, match="names no file"):
        list_jobs(["list.csv"], Path("out"))


def test_advice_for_a_table_of_pairs_is_dataset(here):
    Path("pairs.csv").write_text("Fundus,octa,subject\na.png,b.png,Ann\n")
    with pytest.raises(OptionError, match=r"no column named path.*use --dataset pairs\.csv --split all"):
        list_jobs(["pairs.csv"], Path("out"))


def test_results_in_a_folder_are_no_photographs(results):
    assert list_jobs(["photos"], Path("out")) == [Job(Path("photos/b.png"), Path("b.png"))]


def test_number_of_skipped_results_is_printed(results, capsys):
    list_jobs(["photos"], Path("out"))
    assert capsys.readouterr().out.startswith("photos: skipped 2 results of earlier commands;")


def test_result_that_is_named_is_used(results):
    assert list_jobs(["photos/a.png"], Path("out")) == [Job(Path("photos/a.png"), Path("a.png"))]


def test_result_in_a_list_is_used(results):
    Path("list.csv").write_text("path\nphotos/a.png\n")
    assert list_jobs(["list.csv"], Path("out")) == [Job(Path("photos/a.png"), Path("photos/a.png"))]


@pytest.mark.parametrize("length", [0, 7, 20, 40, 60])
def test_damaged_png_was_made_in_no_known_way(results, length):
    Path("cut.png").write_bytes(Path("photos/a.png").read_bytes()[:length])
    assert read_origin(Path("cut.png")) is None


def test_photograph_with_the_name_of_a_sheet_is_refused():
    job = Job(Path("photos/Sheet_1.jpg"), Path("Sheet_1.png"))
    with pytest.raises(OptionError, match=r"Sheet_1\.jpg: its result would have the name of a sheet"):
        check_jobs([job], Path("out"))


def test_advice_for_photographs_of_one_name_can_be_followed():
    jobs = [Job(Path(folder, "a.jpg"), Path("a.png")) for folder in ("one", "two")]
    with pytest.raises(OptionError, match="rename one, or process it separately with another --output"):
        check_jobs(jobs, Path("out"))


@pytest.mark.parametrize("output", [".", "..", "out", "photos/out"])
def test_all_photographs_are_found_wherever_the_output_folder_is(here, output):
    for name in ("a.png", "out/a.png"):
        Path("photos", name).parent.mkdir(parents=True, exist_ok=True)
        Path("photos", name).touch()
    names = ["a.png"] if output == "photos/out" else ["a.png", "out/a.png"]
    assert list_jobs(["photos"], Path(output)) == [Job(Path("photos", name), Path(name)) for name in names]


def test_width_of_a_crop_is_that_of_the_table_of_pairs(here):
    for name in ("a.png", "b.png", "c.png", "d.png"):
        Path(name).touch()
    Path("pairs.csv").write_text("fundus,octa,subject,octa_mm\na.png,b.png,Ann,3\nc.png,d.png,Bob,\n")
    jobs = list_dataset_jobs(Path("pairs.csv"), "train", Settings(split="1/0/0"))
    assert [job.width_mm for job in jobs] == [3.0, None]


def table_of_two(**columns):
    """Write pairs.csv of the subjects Ann and Bob; returns the digest of Ann's photograph."""
    rows = [["fundus", "octa", "subject", *columns]]
    for grey, (name, subject) in enumerate((("a", "Ann"), ("b", "Bob"))):
        Image.new("RGB", (8, 8), (grey, 9, 9)).save(f"{name}.png")
        rows.append([f"{name}.png", f"{name}.png", subject, *(values[grey] for values in columns.values())])
    Path("pairs.csv").write_text("\n".join(map(",".join, rows)))
    return photo_digest(read_fundus(Path("a.png")))


def subjects_made(capsys, split=None, seen=()):
    """Names of the photographs that are made of pairs.csv, and what is printed."""
    jobs = list_dataset_jobs(Path("pairs.csv"), split, Settings(), seen)
    return [job.source.stem for job in jobs], capsys.readouterr().out


def test_all_subjects_of_a_table_without_splits_are_made_and_counted(here, capsys):
    table_of_two()
    line = "Subjects: 2 of 2; all, because pairs.csv has no column split; the run has seen none of them\n"
    assert subjects_made(capsys) == (["a", "b"], line)


def test_seen_subjects_are_made_only_if_a_split_is_named(here, capsys):
    seen = [table_of_two()]
    names, printed = subjects_made(capsys, seen=seen)
    assert names == ["b"]
    assert "except 1 that the run has seen (--split all uses these)" in printed
    assert subjects_made(capsys, "all", seen)[0] == ["a", "b"]


def test_column_split_chooses_the_subjects_that_are_made(here, capsys):
    table_of_two(split=("train", "test"))
    assert subjects_made(capsys)[0] == ["b"]


def test_table_whose_subjects_were_all_seen_is_refused_with_advice(here):
    table_of_two(split=("test", ""))
    with pytest.raises(OptionError, match=r"all 1 subjects; --split all uses them"):
        list_dataset_jobs(Path("pairs.csv"), None, Settings(), [photo_digest(read_fundus(Path("a.png")))])


def test_folder_below_that_cannot_be_read_is_named(here, monkeypatch):
    (here / "photos" / "locked").mkdir(parents=True)
    scandir = os.scandir

    def without_permission(path):
        if Path(path).name == "locked":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", without_permission)
    with pytest.raises(PermissionError, match="photos/locked"):
        list_jobs(["photos"], here / "out")


# --- the scale of each photograph ------------------------------------------------------------------------------------


@pytest.fixture
def listed(here):
    """Two photographs, and a function that lists them with further columns."""
    for name in ("a.png", "b.png", "mask.png"):
        Path(name).touch()

    def write(*lines, **given):
        Path("list.csv").write_text("\n".join(lines) + "\n")
        return list_jobs(["list.csv"], Path("out"), **given)

    return write


def test_scale_of_a_photograph_is_that_of_its_row(listed):
    jobs = listed("path,PX_per_mm", "a.png,50", 'b.png,"7,5"')
    assert [job.px_per_mm for job in jobs] == [50, 7.5]


def test_row_without_a_scale_has_that_of_the_command(listed):
    jobs = listed("path,field_degrees", "a.png,50", "b.png,", field_degrees=30)
    assert [job.field_degrees for job in jobs] == [50, 30]


def test_scale_of_a_row_is_not_mixed_with_another_one_of_the_command(listed):
    (job,) = listed("path,px_per_mm", "a.png,50", field_degrees=30)
    assert (job.px_per_mm, job.field_degrees) == (50, None)


def test_field_mask_of_a_row_starts_at_the_table(listed):
    jobs = listed("path,mask", "a.png,mask.png", "b.png,", mask=Path("other.png"))
    assert [job.mask for job in jobs] == [Path("mask.png"), Path("other.png")]


@pytest.mark.parametrize(
    ("columns", "cells", "named"),
    [
        ("px_per_mm", "much", r"list\.csv: row 2: px_per_mm much: is not a number"),
        ("field_degrees", "5", r"row 2: field_degrees 5: must be from 10 to 200"),
        ("mask", "nowhere.png", r"row 2: mask nowhere\.png: no such file"),
        ("field_degrees,px_per_mm", "45,50", "row 2: has both field_degrees and px_per_mm; give only one of them"),
    ],
)
def test_wrong_cell_of_a_list_is_named_with_its_row(listed, columns, cells, named):
    with pytest.raises(UserError, match=named):
        listed(f"path,{columns}", f"a.png,{cells}")


def test_unknown_columns_of_a_list_are_named(listed, capsys):
    listed("path,eye,mask,px/mm", "a.png,OD,,50")
    assert "list.csv: columns that are not used: eye, px/mm (used: path, mask," in capsys.readouterr().out


def test_photograph_with_two_scales_is_refused(listed):
    with pytest.raises(OptionError, match=r"a\.png: is given twice, with different scales"):
        listed("path,px_per_mm", "a.png,50", "a.png,60")


# --- names of results ------------------------------------------------------------------------------------------------


def test_photographs_that_differ_in_their_suffix_alone_keep_it(here):
    for name in ("IMG.jpg", "IMG.tif", "OTHER.jpg"):
        Path("photos", name).parent.mkdir(exist_ok=True)
        Path("photos", name).touch()
    assert [job.target.name for job in list_jobs(["photos"], Path("out"))] == [
        "IMG.jpg.png",
        "IMG.tif.png",
        "OTHER.png",
    ]


def test_file_given_by_a_relative_and_an_absolute_path_is_one_photograph(here):
    Path("a.png").touch()
    assert len(list_jobs(["a.png", str(here / "a.png")], Path("out"))) == 1


def test_other_files_of_a_folder_are_listed(here):
    for name in ("a.png", "b.dcm", "below/c.HEIC"):
        Path("photos", name).parent.mkdir(exist_ok=True, parents=True)
        Path("photos", name).touch()
    assert [path.name for path in list_all(["photos"], Path("out"), NOT_GIVEN).others] == ["b.dcm", "c.HEIC"]
