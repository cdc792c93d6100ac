"""The report: blocks as Markdown and HTML, numbers, and what its figures do with points far away."""

import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from evaluation.figures import axis_limits, correlation_without, draw_points, find_outlier, precision_of
from evaluation.report import (
    Heading,
    Picture,
    Rows,
    Table,
    as_html,
    as_markdown,
    compared,
    counted,
    number,
    p_value,
    sentences,
    shown_name,
    with_interval,
)

BLOCKS = [Heading("T", 1), "a < b", Table("of x", ["", "n"], [["A", "1"]]), Picture("p", "shows"), ("one", "two")]


def test_markdown_has_every_block():
    assert as_markdown(BLOCKS).split("\n\n") == [
        "# T",
        "a < b",
        "of x",
        "|  | n |\n| --- | --- |\n| A | 1 |",
        "![shows](p.png)",
        "*shows*",
        "- one\n- two\n",
    ]


def test_page_escapes_text():
    assert "<p>a &lt; b</p>" in as_html("T", BLOCKS, {"p": b"x"})


def test_page_contains_its_pictures():
    assert "src='data:image/png;base64,eA=='" in as_html("T", BLOCKS, {"p": b"x"})


def test_page_and_markdown_have_the_same_cells():
    page = as_html("T", BLOCKS, {"p": b"x"})
    assert "<tr><td>A</td><td>1</td></tr>" in page


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"measure": "dice", "mean": 0.1234, "low": 0.1, "high": 0.2}, "0.12 [0.10, 0.20]"),
        ({"measure": "vessel_density", "mean": 0.1234, "low": 0.1, "high": 0.2}, "0.123 [0.100, 0.200]"),
        ({"measure": "dice", "mean": 0.1234, "low": np.nan, "high": np.nan}, "0.123"),
        ({"measure": "dice", "mean": np.nan, "low": np.nan, "high": np.nan}, "-"),
    ],
)
def test_decimals_follow_interval_and_measure(row, text):
    assert with_interval(row, "mean") == text


def test_correlation_of_densities_has_two_decimals():
    row = {"measure": "vessel_density", "pearson": 0.91, "pearson_low": 0.8, "pearson_high": 0.95}
    assert with_interval(row, "pearson") == "0.91 [0.80, 0.95]"


@pytest.mark.parametrize(
    ("value", "reference", "text"),
    [
        (0.069, 0.06, "0.069 (reference 0.060: +15 %)"),
        (0.1, 0.0, "0.100 (reference 0.000)"),
        (np.nan, 0.1, "- (reference 0.100)"),
    ],
)
def test_density_stands_beside_the_reference_in_percent(value, reference, text):
    assert compared(value, reference, ".3f") == text


def said(eyes: int, interval: float) -> str:
    """The sentences on a run with a Dice of 0.716, and on another method with 0.734."""
    rows = [
        {"candidate": name, "measure": "dice", "mean": mean, "low": mean - interval, "high": mean + interval}
        for name, mean in (("this run", 0.716), ("X", 0.734))
    ]
    same = {"region": "disc", "sector": "whole", "eyes": eyes, "pearson": np.nan}
    return sentences(Rows(pd.DataFrame([row | same for row in rows]), "disc"), "disc", "exact map")


def test_best_other_method_is_not_said_to_be_worse_than_the_run():
    assert "; the best of the other methods, X, has 0.73" in said(10, 0.1)


@pytest.mark.parametrize(("interval", "text"), [(0.1, ("0.72 [0.62, 0.82]", "0.73")), (np.nan, ("0.716", "0.734"))])
def test_dice_of_the_run_and_of_the_best_method_have_the_same_digits(interval, text):
    assert re.search("a Dice of (.*?); .*, X, has (.*?)[.] ", said(10, interval)).groups() == text


def test_one_eye_is_singular():
    assert said(1, np.nan).startswith("Disc, 1 eye: ")
    assert [counted(things, "eye") for things in (0, 1, 2)] == ["0 eyes", "1 eye", "2 eyes"]


@pytest.mark.parametrize(("p", "text"), [(2 / 2**10, "0.002\\*"), (0.01, "0.01"), (np.nan, "-")])
def test_least_p_of_ten_subjects_is_marked(p, text):
    assert p_value({"p": p, "subjects": 10}) == text


def test_only_the_reference_is_named_by_what_it_is():
    assert [shown_name(name, "exact map") for name in ("reference", "this run")] == [
        "reference (exact map)",
        "this run",
    ]


def test_axis_leaves_far_points_out_but_shows_this_run():
    near, far = np.linspace(0.1, 0.2, 20), np.append(np.linspace(0.1, 0.2, 20), 0.9)
    assert axis_limits([near, far], None)[1] == pytest.approx(0.22)
    assert axis_limits([near, far], np.array([0.5]))[1] == pytest.approx(0.52)


def test_points_beyond_the_axis_are_triangles_at_its_edge():
    panel = Figure().subplots()
    x, y = np.array([0.5, 0.5, 0.5, -3.0, 3.0]), np.array([-1.0, 0.5, 2.0, 0.5, 0.5])
    draw_points(panel, x, y, (0.0, 1.0), (0.0, 1.0), "k")
    found = {line.get_marker(): line.get_xydata().tolist() for line in panel.lines}
    assert found == {"v": [[0.5, 0.02]], "^": [[0.5, 0.98]], ".": [[0.5, 0.5]], "<": [[0.02, 0.5]], ">": [[0.98, 0.5]]}


def test_eye_without_which_r_differs_is_found():
    real = np.append(np.nan, np.arange(10) / 10)
    values = np.where(np.arange(11) == 10, 0.0, real)
    assert find_outlier(real, values) == (10, pytest.approx(1))


def test_no_eye_is_found_where_none_stands_out():
    real = np.arange(10) / 10
    assert find_outlier(real, real) is None


def test_correlation_of_equal_values_is_none():
    assert np.isnan(correlation_without(np.arange(3.0), np.array([1.0, 1.0, 2.0]), np.arange(3), 2))


def test_precision_follows_from_dice_and_recall():
    truth, found = np.array([1, 1, 1, 0, 0], bool), np.array([1, 1, 0, 1, 0], bool)
    dice = 2 * (truth & found).sum() / (truth.sum() + found.sum())
    recall = (truth & found).sum() / truth.sum()
    assert precision_of(pd.Series([dice]), pd.Series([recall]))[0] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("value", "shown"), [(-0.0004, "0.00"), (0.004, "0.00"), (-0.006, "-0.01"), (float("nan"), "-")]
)
def test_number_that_rounds_to_0_has_no_sign(value, shown):
    assert number(value, ".2f") == shown
