"""The report: its numbers and tables as text, its page, its files, and what its figures show."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from evaluation.evaluate import MONTAGE
from evaluation.figures import draw_densities
from evaluation.report import CAPTIONS, as_png, make_page, with_interval, write_results


@pytest.mark.parametrize(
    ("measure", "name", "interval", "text"),
    [
        ("dice", "mean", (0.1, 0.2), "0.12 [0.10, 0.20]"),
        ("vessel_density", "mean", (0.1, 0.2), "0.123 [0.100, 0.200]"),
        ("dice", "bias", (-0.0004, 0.2), "0.12 [0.00, 0.20]"),
        ("vessel_density", "pearson", (0.1, 0.2), "0.12 [0.10, 0.20]"),
        ("dice", "mean", (np.nan, np.nan), "0.12"),
    ],
)
def test_decimals_follow_measure_and_statistic(measure, name, interval, text):
    low, high = ("low", "high") if name == "mean" else (f"{name}_low", f"{name}_high")
    assert with_interval({"measure": measure, name: 0.1234, low: interval[0], high: interval[1]}, name) == text


def test_page_escapes_text_and_has_the_cells_of_its_tables():
    table = pd.DataFrame({"roc_auc": ["0.9"]}, index=["SA_Unet"])
    pictures = dict.fromkeys((*CAPTIONS, f"{MONTAGE}disc"), b"")
    page = make_page("T", ["a < b"], {"disc": {"x < y": table}}, pictures, ["n < m"])
    for text in ("<p>a &lt; b</p>", "<p>x &lt; y</p>", "<li>n &lt; m</li>", "<th>SA_Unet</th>", "<th>ROC AUC</th>"):
        assert text in page


def test_results_are_tables_page_and_pictures_and_replace_none(tmp_path):
    write_results(tmp_path / "r", {"t": pd.DataFrame({"a": [1]})}, "page", {"f": as_png(Figure())})
    assert {path.name for path in (tmp_path / "r").iterdir()} == {"report.html", "t.csv", "f.png"}
    with pytest.raises(OSError, match="r"):
        write_results(tmp_path / "r", {}, "another page", {})
    assert (tmp_path / "r/report.html").read_text() == "page"


@pytest.mark.parametrize("agreement", [False, True])
def test_scatter_shows_every_eye(agreement):
    density = {"reference": np.linspace(0.1, 0.2, 9), "this run": np.append(np.linspace(0.1, 0.2, 8), 0.9)}
    rows = {"region": "disc", "sector": "whole"}
    tables = [pd.DataFrame(rows | {"candidate": name, "vessel_density": values}) for name, values in density.items()]
    per_eye = pd.concat(tables).rename_axis("name").reset_index()
    summary = pd.DataFrame([rows | {"candidate": "this run", "measure": "vessel_density", "eyes": 9, "mean": 0.2}])
    (panel,) = draw_densities(per_eye, summary, agreement, "exact map").axes
    points = np.concatenate([line.get_xydata() for line in panel.lines if line.get_marker() == "."])
    assert len(points) == 9
    assert (points >= (panel.get_xlim()[0], panel.get_ylim()[0])).all()
    assert (points <= (panel.get_xlim()[1], panel.get_ylim()[1])).all()
