"""Whose results they are: none is taken for that of another photograph, or for one that was made in another way."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import SeesVessels, files_below, round_field
from PIL import Image

from basics.command_line import OptionError
from basics.files import read_table
from pairs.finished import Origin, Record, digest_of, read_origin
from synthesis.photographs import Job
from synthesis.synthesise import DENSITIES, DENSITY_COLUMNS, Published, Synthesis, synthesise

CROP = Job(Path("c.png"), Path("c.png"), "disc")
PHOTO = Job(Path("a.png"), Path("a.png"))
TWO_WAYS = [{"made_from": "other/ckpt-7"}, {"fast": True}, {"published": Published(64, 8, 2)}]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Two folders, each with its own photograph of the same name."""
    monkeypatch.chdir(tmp_path)
    for folder, side in (("one", 100), ("two", 120)):
        Path(folder).mkdir()
        Image.fromarray(round_field(side)).save(f"{folder}/001.png")
    for name in ("a.png", "c.png"):
        Image.new("L", (9, 9)).save(name)
    return tmp_path


def job_of(folder):
    return Job(Path(folder, "001.png"), Path("001.png"))


def synthesis(**changes):
    """A synthesis that computes, without a trained network."""
    sees = SeesVessels()
    sees.predict_as_published = lambda fundus, fov, *_: sees.predict(fundus, fov)
    record = Record(Path("out", DENSITIES), DENSITY_COLUMNS)
    given = {"made_from": "run/ckpt-7 (1a)", "weights": "", "fov_mask": True, "with_maps": True, **changes}
    return Synthesis(predictor=sees, output=Path("out"), record=record, **given)


def contents(folder="out"):
    return {name: Path(folder, name).read_bytes() for name in files_below(folder)}


def test_another_photograph_of_the_same_name_stops_the_command_and_both_are_named(photos):
    synthesise(synthesis(), [job_of("one")], overwrite=False)
    with pytest.raises(OptionError, match=r"made from one/001\.png, and two/001\.png is another photograph"):
        synthesise(synthesis(), [job_of("two")], overwrite=False)


def test_nothing_is_computed_before_another_photograph_is_noticed(photos):
    synthesise(synthesis(), [job_of("one")], overwrite=False)
    before = contents()
    new = replace(job_of("two"), target=Path("new.png"))
    with pytest.raises(OptionError, match=r"two/001\.png is another photograph"):
        synthesise(synthesis(), [new, job_of("two")], overwrite=False)
    assert contents() == before


def test_photograph_that_was_replaced_under_its_name_stops_the_command(photos):
    synthesise(synthesis(), [job_of("one")], overwrite=False)
    Path("two/001.png").replace("one/001.png")
    with pytest.raises(OptionError, match=r"made from one/001\.png before that file changed"):
        synthesise(synthesis(), [job_of("one")], overwrite=False)


@pytest.mark.parametrize("kind", ["001.png", "001_vessels.png", "001_probability.png", "densities.csv"])
def test_a_single_result_of_another_photograph_is_enough_to_stop(photos, kind):
    synthesise(synthesis(), [job_of("one")], overwrite=False)
    for name in set(files_below("out")) - {kind}:
        Path("out", name).unlink()
    with pytest.raises(OptionError, match="is another photograph"):
        synthesise(synthesis(with_maps=False), [job_of("two")], overwrite=False)


def test_copy_of_a_photograph_is_the_same_photograph(photos, capsys):
    synthesise(synthesis(), [job_of("one")], overwrite=False)
    Path("two/001.png").write_bytes(Path("one/001.png").read_bytes())
    synthesise(synthesis(), [job_of("two")], overwrite=False)
    assert "1 of 1 photographs have results" in capsys.readouterr().out


def test_overwriting_leaves_no_result_of_the_photograph_before(photos):
    synthesise(synthesis(with_figure=True), [job_of("one")], overwrite=False)
    synthesise(synthesis(with_maps=False), [job_of("two")], overwrite=True)
    assert files_below("out") == ["001.png", "densities.csv"]
    assert read_table(Path("out/densities.csv")) == []


def test_overwriting_keeps_a_file_of_another_program(photos):
    Path("out").mkdir()
    Image.new("L", (9, 9)).save("out/001_figure.png")
    synthesise(synthesis(), [job_of("one")], overwrite=True)
    assert Image.open("out/001_figure.png").size == (9, 9)


def test_row_and_pngs_hold_the_digest_of_the_photograph(photos):
    synthesise(synthesis(), [job_of("one")], overwrite=False)
    (row,) = read_table(Path("out/densities.csv"))
    expected = digest_of([Path("one/001.png")])
    assert {row["photo_digest"], read_origin(Path("out/001_vessels.png")).digest} == {expected}


@pytest.mark.parametrize("change", TWO_WAYS)
def test_result_that_was_made_in_another_way_stops_the_command(photos, change):
    synthesise(synthesis(with_maps=False), [job_of("one")], overwrite=False)
    with pytest.raises(OptionError, match=r"out/001\.png: was made with run/ckpt-7 \(1a\)"):
        synthesise(synthesis(with_maps=False, **change), [job_of("one")], overwrite=False)


@pytest.mark.parametrize("one", [(64, 8, 2), (64, 4, 2)])
def test_published_results_of_other_strides_and_batches_are_not_mixed(photos, one):
    synthesise(synthesis(published=Published(64, 8, 4)), [job_of("one")], overwrite=False)
    with pytest.raises(OptionError, match="as published, stride 8, batch size 4"):
        synthesise(synthesis(published=Published(*one)), [job_of("one")], overwrite=False)


def test_photograph_that_vanished_is_named_and_the_others_are_done(photos):
    synthesise(synthesis(), [job_of("one")], overwrite=False)
    Path("one/001.png").unlink()
    other = replace(job_of("two"), target=Path("002.png"))
    (failed,) = synthesise(synthesis(), [job_of("one"), other], overwrite=False)
    assert failed.startswith("one/001.png: ")
    assert Path("out/002_vessels.png").exists()


@pytest.mark.parametrize(
    ("changes", "job", "words"),
    [
        ({}, PHOTO, ", 45 degrees"),
        ({"fast": True}, replace(PHOTO, field_degrees=30), ", one pass, 30 degrees"),
        ({}, replace(PHOTO, px_per_mm=7.5), ", 7.5 px per mm"),
        ({"published": Published(64, 8, 2)}, PHOTO, ", as published, stride 8, batch size 2, 45 degrees"),
        ({}, replace(CROP, field_degrees=30), ""),
        ({}, replace(CROP, px_per_mm=80), ", 80 px per mm"),
    ],
)
def test_origin_names_all_that_changes_the_pixels(photos, changes, job, words):
    assert synthesis(**changes).made_with(job) == "run/ckpt-7 (1a)" + words


def test_another_field_mask_is_another_way(photos):
    for name, level in (("m.png", 9), ("n.png", 200)):
        Image.new("L", (9, 9), level).save(name)
    one, other = (synthesis().made_with(replace(PHOTO, mask=Path(name))) for name in ("m.png", "n.png"))
    assert one != other


@pytest.mark.parametrize(
    ("width_mm", "given", "scale", "assumed"),
    [
        (3.0, {}, 100, False),
        (None, {}, 300 / 4.5, True),
        (None, {"field_degrees": 30}, 300 / 4.5, True),
        (3.0, {"px_per_mm": 80}, 80, False),
    ],
)
def test_scale_of_a_crop_is_that_of_its_width(width_mm, given, scale, assumed):
    job = replace(CROP, width_mm=width_mm, **given)
    assert job.scale(job.diameter(None), 300) == pytest.approx(scale)
    assert job.is_assumed() == assumed


def test_result_of_a_file_that_cannot_be_read_is_never_kept():
    assert not Origin("", "run").is_of(Origin("", "run"))


def test_grey_levels_are_rounded(photos):
    synthesise(synthesis(), [job_of("one")], overwrite=False)
    fundus = np.asarray(Image.open("one/001.png"))
    octa = np.asarray(Image.open("out/001.png"))
    assert set(np.unique(octa[octa > 0].astype(int) + fundus[..., 1][octa > 0])) == {255}


# --- the field of view -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("outside", "inside"), [(0, 1), (0, 255), (10, 20)])
def test_given_field_mask_is_used_whatever_its_two_levels(photos, outside, inside):
    mask = np.full((100, 100), outside, np.uint8)
    mask[20:60, 30:80] = inside
    Image.fromarray(mask).save("mask.png")
    synthesise(synthesis(), [replace(job_of("one"), mask=Path("mask.png"))], overwrite=False)
    (row,) = read_table(Path("out/densities.csv"))
    assert int(row["field_px"]) == 40 * 50


@pytest.mark.parametrize(
    ("mask", "named"),
    [
        (np.ones((50, 100), np.uint8), r"mask\.png: 100 x 50 px, but its photograph has 100 x 100 px"),
        (np.zeros((100, 100), np.uint8), r"mask\.png: is entirely dark"),
    ],
)
def test_field_mask_that_cannot_be_used_is_named(photos, mask, named):
    Image.fromarray(mask).save("mask.png")
    (failed,) = synthesise(synthesis(), [replace(job_of("one"), mask=Path("mask.png"))], overwrite=False)
    assert re.search(named, failed)


def test_stretch_of_a_photograph_is_printed_and_in_its_row(photos, capsys):
    Image.fromarray(round_field(200)).resize((200, 250)).save("one/001.png")
    synthesise(synthesis(), [job_of("one")], overwrite=False)
    (row,) = read_table(Path("out/densities.csv"))
    assert float(row["stretch"]) == pytest.approx(0.8, abs=0.02)
    assert "one/001.png: stretched along its height by 2" in capsys.readouterr().out


def test_crop_is_never_taken_for_stretched(photos):
    Image.fromarray(round_field(200)).resize((200, 250)).save("one/001.png")
    synthesise(synthesis(), [replace(job_of("one"), region="disc")], overwrite=False)
    (row,) = read_table(Path("out/densities.csv"))
    assert float(row["stretch"]) == 1
