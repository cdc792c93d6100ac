"""Figures of photographs: their size, their origin, and sheets of many."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import synthesis.figure as figures
from pairs.origin import Origin, read_origin
from retina.vessels import WHOLE
from synthesis.figure import write_figure, write_sheets
from synthesis.photographs import Job
from synthesis.synthesiser import Result

NONE = Origin("", "")


def write(path: Path, height=60, width=90, caption="", confidence="usable", origin=NONE):
    """Write a figure of grey images."""
    field = np.ones((height, width), bool)
    fundus = np.zeros((height, width, 3), np.uint8)
    job = Job(path, path)
    result = Result(job, fundus, field, field * 0.5, field * 0.5, field, confidence, None, 1.0, 10.0)
    write_figure(path, result, caption, origin)


@pytest.mark.parametrize(("height", "width"), [(100, 200), (200, 100), (1, 1)])
def test_figure_has_the_shape_of_its_panels(tmp_path, height, width):
    write(tmp_path / "f.png", height, width, caption="$name{\n")  # no formula
    panel = figures.PANEL * min(1, width / height) * height / width
    assert Image.open(tmp_path / "f.png").height == pytest.approx(figures.DPI * (panel + 0.75), abs=2)


def test_figure_shows_the_sectors_that_are_measured(tmp_path, monkeypatch):
    whole, sector = np.ones((60, 90), bool), np.indices((60, 90)).sum(axis=0) < 40
    monkeypatch.setattr(Result, "offered", {WHOLE: whole})
    write(tmp_path / "without.png")
    monkeypatch.setattr(Result, "offered", {WHOLE: whole, "macula centre": sector})
    write(tmp_path / "with.png")
    assert (tmp_path / "with.png").read_bytes() != (tmp_path / "without.png").read_bytes()


def test_figure_and_sheet_hold_their_origins(tmp_path):
    origin = Origin("1a2b", "网膜/ckpt-7 (1a), 45 degrees")
    write(tmp_path / "a.png", origin=origin)
    (sheet,) = write_sheets([tmp_path / "a.png"], tmp_path, Origin("", "run/ckpt-7 (1a)"))
    assert [read_origin(path) for path in (tmp_path / "a.png", sheet)] == [origin, Origin("", "run/ckpt-7 (1a)")]


def test_sheet_frames_the_doubtful_in_red(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, confidence in zip(paths, ("usable", "doubtful: dark"), strict=True):
        write(path, confidence=confidence)
    sheet = np.asarray(Image.open(write_sheets(paths, tmp_path, Origin("", ""))[0])).astype(int)
    frames = sheet[20, 8], sheet[20, figures.SHEET_PX + 8]  # at the left of each
    assert [np.argmax(frame) for frame in frames] == [1, 0]  # green, red


def test_many_figures_have_several_sheets(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "ON_SHEET", 2)
    write(tmp_path / "a.png")
    sheets = write_sheets([tmp_path / "a.png"] * 5, tmp_path, Origin("", ""))
    assert [path.name for path in sheets] == ["sheet_1.png", "sheet_2.png", "sheet_3.png"]
