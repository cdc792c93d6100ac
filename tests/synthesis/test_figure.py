"""Figures of photographs: their size, their captions, and sheets of many."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import synthesis.figure as figures
from pairs.finished import Origin, read_origin
from synthesis.figure import Shown, caption, write_figure, write_sheets


@pytest.fixture
def shown():
    height, width = 60, 90
    fov = np.hypot(*np.ogrid[-30:30, -45:45]) < 28
    return Shown(
        name="a.png",
        fundus=np.full((height, width, 3), 100, np.uint8),
        fov=fov,
        octa=fov * 0.5,
        vessels=fov & (np.arange(width) % 10 == 0),
        px_per_mm=10.0,
        is_assumed=True,
        density=0.1234,
        weights="run/ckpt-7",
        passes="",
        confidence="usable",
        origin=Origin("1a2b", "网膜/ckpt-7 (1a), 45 degrees"),
    )


@pytest.mark.parametrize(("height", "width"), [(100, 200), (200, 100), (1, 65), (1, 1)])
def test_figure_has_the_shape_of_its_panels(shown, tmp_path, height, width):
    field = np.ones((height, width), bool)
    images = {"fundus": np.zeros((height, width, 3), np.uint8), "fov": field, "vessels": field, "octa": field * 0.5}
    write_figure(replace(shown, **images), tmp_path / "f.png")
    panel = figures.PANEL * min(1, width / height) * height / width
    assert Image.open(tmp_path / "f.png").height == pytest.approx(figures.DPI * (panel + 0.75), abs=2)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "a.png: 90 x 60 px, 10 px/mm assumed; vessel density 0.123; usable\nWeights: run/ckpt-7."),
        ({"is_assumed": False}, "10 px/mm;"),
        ({"px_per_mm": None}, "scale unknown"),
        ({"passes": "one pass"}, "10 px/mm assumed, one pass; vessel density"),
        ({"name": "b\n$x$.png"}, r"b \$x\$.png"),
    ],
)
def test_caption_contains(shown, changes, text):
    assert text in caption(replace(shown, **changes))


def test_name_that_is_no_formula_and_no_utf8_is_drawn(shown, tmp_path):
    write_figure(replace(shown, name="$\udcff{"), tmp_path / "f.png")
    assert Image.open(tmp_path / "f.png").width > 0


def test_figure_and_sheet_hold_their_origins(shown, tmp_path):
    write_figure(shown, tmp_path / "a.png")
    (sheet,) = write_sheets([tmp_path / "a.png"], tmp_path, Origin("", "run/ckpt-7 (1a)"))
    assert [read_origin(path) for path in (tmp_path / "a.png", sheet)] == [shown.origin, Origin("", "run/ckpt-7 (1a)")]


def test_sheet_frames_the_doubtful_in_red(shown, tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, confidence in zip(paths, ("usable", "doubtful: dark"), strict=True):
        write_figure(replace(shown, confidence=confidence), path)
    sheet = np.asarray(Image.open(write_sheets(paths, tmp_path, Origin("", ""))[0])).astype(int)
    frames = sheet[20, 8], sheet[20, figures.SHEET_PX + 8]  # at the left of each
    assert [np.argmax(frame) for frame in frames] == [1, 0]  # green, red


def test_many_figures_have_several_sheets(shown, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "ON_SHEET", 2)
    write_figure(shown, tmp_path / "a.png")
    sheets = write_sheets([tmp_path / "a.png"] * 5, tmp_path, Origin("", ""))
    assert [path.name for path in sheets] == ["sheet_1.png", "sheet_2.png", "sheet_3.png"]
