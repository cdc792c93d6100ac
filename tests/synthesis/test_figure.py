"""Figures of photographs: their size, what they say, and sheets of many."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import synthesis.figure as photo_figure
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
        disagreement=np.zeros((height, width)),
        px_per_mm=10.0,
        is_assumed=True,
        density=0.1234,
        weights="run/ckpt-7",
        passes="",
        verdict="usable",
        origin=Origin("1a2b", "run/ckpt-7 (1a), 45 degrees"),
    )


def drawn(shown, path, **changes):
    write_figure(replace(shown, **changes), path)
    return Image.open(path)


@pytest.mark.parametrize(("height", "width"), [(200, 200), (100, 200), (200, 100), (1, 65), (65, 1), (1, 1)])
def test_figure_has_the_shape_of_its_panels(shown, tmp_path, height, width):
    field = np.ones((height, width), bool)
    changes = {"fundus": np.zeros((height, width, 3), np.uint8), "fov": field, "vessels": field}
    figure = drawn(shown, tmp_path / "f.png", octa=field * 0.5, disagreement=field * 0.1, **changes)
    panel = photo_figure.PANEL * min(1, width / height) * height / width
    assert figure.height == pytest.approx(photo_figure.DPI * (panel + 0.75), abs=2)


def test_figure_of_one_pass_has_a_panel_less(shown, tmp_path):
    widths = [drawn(shown, tmp_path / "f.png", disagreement=one).width for one in (shown.disagreement, None)]
    assert widths[1] == pytest.approx(0.75 * widths[0], abs=2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "a.png: 90 x 60 px, 10 px/mm assumed; vessel density 0.123; usable"),
        ({"is_assumed": False}, "10 px/mm;"),
        ({"px_per_mm": None}, "scale unknown"),
        ({"passes": "one pass"}, "10 px/mm assumed, one pass; vessel density"),
        ({"verdict": "doubtful: dark"}, "doubtful: dark"),
        ({}, "Weights: run/ckpt-7."),
        ({"name": "b\n$x$.png"}, r"b \$x\$.png"),
    ],
)
def test_caption_says(shown, changes, said):
    assert said in caption(replace(shown, **changes))


def test_name_that_is_no_formula_and_no_utf8_is_drawn(shown, tmp_path):
    assert drawn(shown, tmp_path / "f.png", name="$\udcff{").width > 0


def test_figure_keeps_the_verdict(shown, tmp_path):
    assert drawn(shown, tmp_path / "f.png", verdict="doubtful: dark").text["Comment"] == "doubtful: dark"


def test_figure_says_how_it_was_made(shown, tmp_path):
    path = tmp_path / "f.png"
    write_figure(replace(shown, origin=Origin("1a2b", "网膜/ckpt-7 (1a)")), path)
    assert read_origin(path).made_with == "网膜/ckpt-7 (1a)"


def test_sheet_says_how_it_was_made(shown, tmp_path):
    write_figure(shown, tmp_path / "a.png")
    (sheet,) = write_sheets([tmp_path / "a.png"], tmp_path, Origin("", "run/ckpt-7 (1a)"))
    assert read_origin(sheet).made_with == "run/ckpt-7 (1a)"


def test_sheet_frames_the_doubtful_in_red(shown, tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, verdict in zip(paths, ("usable", "doubtful: dark"), strict=True):
        write_figure(replace(shown, verdict=verdict), path)
    sheet = np.asarray(Image.open(write_sheets(paths, tmp_path, Origin("", ""))[0])).astype(int)
    frames = sheet[20, 8], sheet[20, photo_figure.SHEET_PX + 8]  # at the left of each
    assert [np.argmax(frame) for frame in frames] == [1, 0]  # green, red


def test_many_figures_have_several_sheets(shown, tmp_path, monkeypatch):
    monkeypatch.setattr(photo_figure, "ON_SHEET", 2)
    write_figure(shown, tmp_path / "a.png")
    assert [path.name for path in write_sheets([tmp_path / "a.png"] * 5, tmp_path, Origin("", ""))] == [
        "sheet_1.png",
        "sheet_2.png",
        "sheet_3.png",
    ]


def test_large_photograph_is_shown_as_a_whole():
    side = 2 * photo_figure.SHOWN_PX
    image = np.repeat(np.arange(4), side // 4)[np.newaxis].repeat(side, axis=0)
    shown = photo_figure.smaller(image)
    assert shown.shape == (side // 2, side // 2)
    assert shown[0, [0, -1]].tolist() == [0, 3]
