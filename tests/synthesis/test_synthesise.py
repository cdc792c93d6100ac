"""Whose results they are: none is taken for that of another photograph, or for one that was made in another way."""

import re
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import files_below, round_field, seeing
from PIL import Image

import synthesis.synthesise as program
from basics.command_line import OptionError
from basics.files import read_table
from pairs.origin import Origin, Record, digest_of, read_origin
from retina.landmarks import Landmarks
from retina.vessels import QUADRANTS, WHOLE
from synthesis.confidence import calibrated, expected_dice
from synthesis.photographs import Job
from synthesis.synthesise import DENSITIES, DENSITY_COLUMNS, Synthesis, synthesise
from synthesis.synthesiser import Published

CROP = Job(Path("c.png"), Path("c.png"), "disc")
PHOTO = Job(Path("a.png"), Path("a.png"))
ONE, TWO = (Job(Path(folder, "001.png"), Path("001.png")) for folder in ("one", "two"))
TWO_WAYS = [
    {"made_from": "other/ckpt-7"},
    {"fast": True},
    {"published": Published(64, 8, 2)},
]


@pytest.fixture(autouse=True)
def photos(tmp_path, monkeypatch):
    """Two folders, each with its own photograph of the same name."""
    monkeypatch.chdir(tmp_path)
    for job, side in ((ONE, 100), (TWO, 120)):
        job.source.parent.mkdir()
        Image.fromarray(round_field(side)).save(job.source)
    for name in ("a.png", "c.png"):
        Image.new("L", (9, 9)).save(name)


def run(*jobs, overwrite=False, threads=1, with_maps=True, with_figure=False, **changes):
    """Synthesise, without a trained network, into out/; returns the failures."""
    record = Record(Path("out", DENSITIES), DENSITY_COLUMNS, WHOLE)
    synthesis = Synthesis(synthesiser(**changes), Path("out"), record, with_maps, with_figure)
    return synthesise(synthesis, jobs, overwrite, threads)


def synthesiser(**changes):
    return seeing(**{"made_from": "run/ckpt-7 (1a)"} | changes)


def rows():
    """The rows of whole fields."""
    return [row for row in read_table(Path("out", DENSITIES)) if row["region"] == WHOLE]


# --- whose results they are ------------------------------------------------------------------------------------------


def test_another_photograph_of_the_same_name_stops_the_command_before_anything_is_computed():
    run(ONE)
    before = {name: Path("out", name).read_bytes() for name in files_below("out")}
    with pytest.raises(OptionError, match=r"001\.png: was made from one/001\.png, another than two/001\.png"):
        run(replace(TWO, target=Path("new.png")), TWO)
    assert {name: Path("out", name).read_bytes() for name in files_below("out")} == before


def test_photograph_that_was_replaced_under_its_name_stops_the_command():
    run(ONE)
    TWO.source.replace(ONE.source)
    with pytest.raises(OptionError, match=r"001\.png: was made from one/001\.png before it changed"):
        run(ONE)


@pytest.mark.parametrize("kind", ["001.png", "001_vessels.png", "001_probability.png", "densities.csv"])
def test_a_single_result_of_another_photograph_is_enough_to_stop(kind):
    run(ONE)
    for name in set(files_below("out")) - {kind}:
        Path("out", name).unlink()
    with pytest.raises(OptionError, match=r"another than two/001\.png"):
        run(TWO, with_maps=False)


@pytest.mark.parametrize("changes", [{}, {"vessel_output": True, "published": Published(64, 8, 2)}])
def test_copy_of_a_photograph_is_the_same_photograph(changes, capsys):
    run(ONE, **changes)
    TWO.source.write_bytes(ONE.source.read_bytes())
    run(TWO, **changes)
    assert "1 of 1 photographs have results" in capsys.readouterr().out
    assert not Path("out/001_confidence.png").exists()  # which needs a vessel probability


def test_overwriting_leaves_no_result_of_the_photograph_before():
    run(ONE, with_figure=True, vessel_output=True)
    run(TWO, with_maps=False, overwrite=True)
    assert files_below("out") == ["001.png", "densities.csv"]
    assert rows() == []


def test_overwriting_keeps_a_file_of_another_program():
    Path("out").mkdir()
    Image.new("L", (9, 9)).save("out/001_figure.png")
    run(ONE, overwrite=True)
    assert Image.open("out/001_figure.png").size == (9, 9)


def test_rows_and_pngs_hold_the_origin():
    run(ONE, replace(TWO, target=Path("002.png")), with_figure=True)
    expected = [Origin(digest_of([job.source]), "run/ckpt-7 (1a), 45 degrees", str(job.source)) for job in (ONE, TWO)]
    assert [Origin(row["photo_digest"], row["made_with"], row["source"]) for row in rows()] == expected
    pngs = [name for name in files_below("out") if name.endswith(".png")]
    assert [read_origin(Path("out", name)) for name in pngs] == [
        *([expected[0]] * 4 + [expected[1]] * 4),
        Origin("", "run/ckpt-7 (1a)"),  # the sheet
    ]


@pytest.mark.parametrize("change", TWO_WAYS)
def test_result_that_was_made_in_another_way_stops_the_command(change):
    run(ONE, published=Published(64, 8, 4))
    with pytest.raises(OptionError, match=r"001\.png: was made with .*, now "):
        run(ONE, **change)


def test_photograph_that_vanished_is_named_and_the_others_are_done():
    run(ONE)
    ONE.source.unlink()
    (failed,) = run(ONE, replace(TWO, target=Path("002.png")))
    assert failed.startswith("one/001.png: ")
    assert Path("out/002_vessels.png").exists()


# --- many photographs ------------------------------------------------------------------------------------------------

SIDES = (60, 70, 80)


@pytest.fixture
def many():
    """Jobs of small photographs, among them one that is not readable and one that is missing."""
    names = [f"p{number}.png" for number in range(len(SIDES) + 2)]
    for name, side in zip(names, SIDES, strict=False):
        Image.fromarray(round_field(side)).save(name)
    Path(names[-2]).write_text("text")
    return [Job(Path(name), Path(name)) for name in np.random.default_rng(0).permutation(names)]


def contents():
    return {name: Path("out", name).read_bytes() for name in files_below("out")}


def test_threads_change_no_result(many, capsys):
    alone = run(*many, with_figure=True), contents()
    Path("out").rename("before")
    assert (run(*many, with_figure=True, threads=3), contents()) == alone
    assert len(alone[0]) == 2
    assert capsys.readouterr().out.count(f"{len(SIDES)} written to out/") == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_what_ends_the_command_leaves_the_others_finished_and_the_same_command_resumes(many, threads, monkeypatch):
    run(*many)
    complete = contents()
    Path("out").rename("before")
    run_one, asked = Synthesis.run, []

    def run_or_fail(self, job):
        asked.append(job)
        if len(asked) == 3:
            raise OSError(28, "No space left on device", "out/p.png")
        return run_one(self, job)

    with monkeypatch.context() as patch:
        patch.setattr(Synthesis, "run", run_or_fail)
        with pytest.raises(OSError, match="No space left"):
            run(*many, threads=threads)
    assert len(asked) < len(many)
    assert [row["path"] for row in rows()] == [name for name in complete if f"{name[:-4]}_vessels.png" in contents()]
    run(*many, threads=threads)
    assert contents() == complete


def test_photograph_for_which_memory_is_too_small_is_named_and_the_others_are_done(monkeypatch):
    run_one = Synthesis.run

    def run_the_other(self, job):
        if job == ONE:
            raise MemoryError
        return run_one(self, job)

    monkeypatch.setattr(Synthesis, "run", run_the_other)
    (failed,) = run(ONE, replace(TWO, target=Path("002.png")))
    assert failed.startswith("one/001.png: out of memory; try --threads 1")
    assert Path("out/002.png").exists()


def test_threads_stop_at_the_network_when_nobody_waits_for_results_any_more(monkeypatch):
    record = Record(Path("out", DENSITIES), DENSITY_COLUMNS, WHOLE)
    synthesis = Synthesis(synthesiser(), Path("out"), record)

    def stop(self, job):
        raise KeyboardInterrupt

    monkeypatch.setattr(Synthesis, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        synthesise(synthesis, [ONE, PHOTO], overwrite=False)
    with pytest.raises(CancelledError), synthesis.synthesiser.predictor.turns.take():
        pass


def test_rows_are_ordered_by_name_whatever_the_order_of_the_photographs(many):
    run(*many)
    run(*reversed(many), overwrite=True, fast=True)
    assert [row["path"] for row in rows()] == [f"p{number}.png" for number in range(len(SIDES))]


def test_row_that_was_cut_off_does_not_count_and_its_photograph_is_done_again(many, capsys):
    run(*many)
    complete = contents()
    table = Path("out", DENSITIES)
    table.write_bytes(complete[DENSITIES][:-9])
    run(*many)
    assert f"{len(SIDES) - 1} of {len(many)} photographs have results" in capsys.readouterr().out
    assert contents() == complete


# --- how they are made -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "job", "words"),
    [
        ({}, PHOTO, ", 45 degrees"),
        ({"fast": True}, replace(PHOTO, field_degrees=30), ", one pass, 30 degrees"),
        ({}, replace(PHOTO, px_per_mm=7.5), ", 7.5 px per mm"),
        ({"published": Published(64, 8, 2)}, PHOTO, ", as published, stride 8, batch size 2, 45 degrees"),
        ({}, replace(CROP, field_degrees=30), ""),
    ],
)
def test_origin_names_all_that_changes_the_pixels(changes, job, words):
    assert synthesiser(**changes).made_with(job) == "run/ckpt-7 (1a)" + words


def test_another_field_mask_is_another_way():
    for name, level in (("m.png", 9), ("n.png", 200)):
        Image.new("L", (9, 9), level).save(name)
    one, other = (synthesiser().made_with(replace(PHOTO, mask=Path(name))) for name in ("m.png", "n.png"))
    assert one != other


@pytest.mark.parametrize(
    ("width_mm", "given", "scale", "assumed"),
    [
        (3.0, {}, 100, False),
        (None, {}, 300 / 4.5, True),
        (3.0, {"px_per_mm": 80}, 80, False),
    ],
)
def test_scale_of_a_crop_is_that_of_its_width(width_mm, given, scale, assumed):
    job = replace(CROP, width_mm=width_mm, **given)
    assert job.scale(job.diameter(None), 300) == pytest.approx(scale)
    assert job.is_assumed() == assumed


def test_figure_shows_subfolder_scale_and_passes(monkeypatch):
    shown = []
    monkeypatch.setattr(program, "write_figure", lambda *given: shown.append(given))
    run(replace(ONE, region="disc", width_mm=4.0, target=Path("below/001.png")), with_figure=True, fast=True)
    ((_, result, caption, _),) = shown
    assert result.px_per_mm == 25  # of 100 px
    assert caption.startswith("below/001.png: 100 x 100 px, 25 px/mm, one pass; eye unknown; vessel density 0.")


@pytest.mark.parametrize(("change", "said"), [({"px_per_mm": 16.0}, True), ({"region": "disc"}, False)])
def test_figure_says_of_photographs_alone_that_the_fovea_was_not_found(monkeypatch, change, said):
    shown = []
    monkeypatch.setattr(program, "write_figure", lambda *given: shown.append(given))
    run(replace(ONE, **change), with_figure=True)
    assert ("eye unknown, no sectors: fovea not found;" in shown[0][2]) == said


def test_grey_levels_are_rounded():
    run(ONE)
    fundus, octa = (np.asarray(Image.open(path)).astype(int) for path in (ONE.source, "out/001.png"))
    assert set((octa + fundus[..., 1])[octa > 0]) == {255}


def test_confidence_is_the_probability_that_the_map_is_right():
    run(ONE, vessel_output=True)
    maps = (np.asarray(Image.open(f"out/001_{kind}.png")) for kind in ("vessels", "probability", "confidence"))
    vessels, probability, right = (image / image.max() if image.dtype == bool else image / 255 for image in maps)
    (row,) = rows()
    fov = probability > 0
    drawn = calibrated(probability, float(row["sharpness"]), float(row["px_per_mm"])) * fov
    assert np.mean((vessels > 0) != (probability > 0.5)) < 0.01  # 8 bits round them
    assert abs(right - np.where(vessels, drawn, 1 - drawn) * fov).max() < 0.02  # 8 bits round them
    for kind, value in (("dice", expected_dice(drawn, vessels > 0)), ("density", drawn.sum() / fov.sum())):
        low, expected, high = (float(row[name]) for name in (f"{kind}_low", f"expected_{kind}", f"{kind}_high"))
        assert expected == pytest.approx(value, abs=0.01)
        assert 0 <= low < expected < high <= 1


# --- the field of view -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("outside", "inside"), [(0, 1), (10, 20)])
def test_given_field_mask_is_used_whatever_its_two_levels(outside, inside):
    mask = np.full((100, 100), outside, np.uint8)
    mask[20:60, 30:80] = inside
    Image.fromarray(mask).save("mask.png")
    run(replace(ONE, mask=Path("mask.png")))
    assert int(rows()[0]["region_px"]) == 40 * 50


@pytest.mark.parametrize(
    ("mask", "named"),
    [
        (np.ones((50, 100), np.uint8), r"mask\.png: 100 x 50 px, but its photograph has 100 x 100 px"),
        (np.zeros((100, 100), np.uint8), r"mask\.png: is entirely dark"),
    ],
)
def test_field_mask_that_cannot_be_used_is_named(mask, named):
    Image.fromarray(mask).save("mask.png")
    (failed,) = run(replace(ONE, mask=Path("mask.png")))
    assert re.search(named, failed)


def test_stretch_of_a_photograph_is_printed_and_in_its_row_but_not_of_a_crop(capsys):
    Image.fromarray(round_field(200)).resize((200, 250)).save(ONE.source)
    run(ONE, replace(ONE, region="disc", target=Path("crop.png")))
    assert [float(row["stretch"]) for row in rows()] == [pytest.approx(0.8, abs=0.02), 1]
    assert capsys.readouterr().out.count("one/001.png: stretched along its height by 2") == 1


# --- densities by region ---------------------------------------------------------------------------------------------


def test_crop_has_a_row_for_each_sector_and_the_whole_comes_last():
    run(replace(ONE, region="macula", width_mm=4.0, eye="OD"))
    table = read_table(Path("out", DENSITIES))
    assert [row["region"] for row in table] == [
        *("macula centre", *(f"macula inner {name}" for name in QUADRANTS)),
        WHOLE,
    ]
    assert {(row["path"], row["eye"], row["px_per_mm"], row["assumed"]) for row in table} == {
        ("001.png", "OD", "25.00", "")
    }
    centre = float(table[0]["area_mm2"])
    assert centre == pytest.approx(np.pi / 4, rel=0.05)


def test_sectors_of_a_photograph_lie_around_disc_and_fovea(monkeypatch):
    found = Landmarks((50.0, 70.0), (55.0, 30.0), "OD")
    monkeypatch.setattr("synthesis.synthesiser.find_landmarks", lambda *_: found)
    fundus = round_field(100)
    result = seeing().result(replace(ONE, px_per_mm=16.0), fundus)
    assert {name.rpartition(" ")[0] for name in result.densities} >= {"disc ring", "macula", "macula inner"}
    assert result.densities["disc ring temporal"].px[1] > 0
    run(ONE)
    assert {row["assumed"] for row in read_table(Path("out", DENSITIES))} == {"45 degrees"}


def test_sectors_that_are_not_repeatable_are_left_out_of_photographs_only(monkeypatch):
    monkeypatch.setattr("synthesis.synthesiser.NOT_REPEATABLE", ("disc ring inferior",))
    monkeypatch.setattr("synthesis.synthesiser.find_landmarks", lambda *_: Landmarks((50.0, 70.0), (55.0, 30.0), "OD"))
    photograph = replace(ONE, px_per_mm=16.0)
    assert "disc ring inferior" not in seeing().result(photograph, round_field(100)).densities
    crop = replace(ONE, region="disc", width_mm=4.5, eye="OD")
    assert "disc ring inferior" in seeing().result(crop, round_field(100)).densities


def test_sectors_and_area_of_a_photograph_of_unknown_scale_are_not_offered():
    Image.fromarray(np.full((60, 60, 3), 120, np.uint8)).save("plain.png")
    (density,) = seeing().photograph("plain.png").densities.values()
    assert np.isnan([density.area, density.skeleton]).all()


def test_a_stretched_photograph_has_no_lengths_and_areas():
    Image.fromarray(round_field(200)).resize((200, 250)).save("stretched.png")
    (density,) = seeing().photograph("stretched.png").densities.values()
    assert np.isnan([density.area, density.skeleton]).all()


def test_same_photograph_under_two_names_is_noted(capsys):
    run(ONE)
    run(replace(ONE, target=Path("other.png")))
    assert "NOTE: out/densities.csv: 001.png and other.png are the same photograph" in capsys.readouterr().out


def test_overwriting_and_resuming_keep_one_set_of_rows():
    crop = replace(ONE, region="disc", width_mm=4.5, eye="OS")
    run(crop)
    once = Path("out", DENSITIES).read_text()
    run(crop, overwrite=True)
    run(crop)
    assert Path("out", DENSITIES).read_text() == once


def test_rows_of_sectors_without_that_of_the_whole_do_not_count(capsys):
    crop = replace(ONE, region="disc", width_mm=4.5, eye="OS")
    run(crop)
    complete = Path("out", DENSITIES).read_bytes()
    Path("out", DENSITIES).write_bytes(complete.rpartition(b"\n")[0].rpartition(b"\n")[0] + b"\n")
    run(crop)
    assert "1 written to out/" in capsys.readouterr().out
    assert Path("out", DENSITIES).read_bytes() == complete
