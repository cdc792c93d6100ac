"""Tables and figures of an evaluation, from the data handed in: Markdown, CSV and PNG.

`per_eye` has a row for each case, candidate and sector (`eye_measures.measure_eye`), `summary` a row
for each region, candidate, sector and measure (`vessel_statistics.summarise`), and `counts` the pixels at each vessel
probability for each (region, candidate).
"""

import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from eye_measures import AGREEMENTS, OURS, PROPERTIES, REAL, SIMILARITY_NAMES, WAYS
from eye_picture import missed_and_invented
from pix_command import disk_errors_name
from ut_fsocta import CROP_MM, OTHER_REGION
from vessel_metrics import SECTORS, VESSEL_SCORE_NAMES, WHOLE
from vessel_statistics import pooled_curve

DPI = 300
DENSITY_MARGIN = 0.02  # around the points of a figure
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")  # Okabe and Ito
SYMBOLS = {"mae": "MAE", "psnr": "PSNR, dB", "ssim": "SSIM", "roc_auc": "ROC AUC", "dice": "Dice", "cldice": "clDice"}
HEADINGS = SYMBOLS | {"skeleton_density": "skeleton density, mm/mm²", "faz_mm2": "avascular zone, mm²"}


# --- tables ----------------------------------------------------------------------------------------------------------


def heading(measure: str) -> str:
    """A measure's name in a table."""
    return HEADINGS.get(measure, measure.replace("_", " "))


def number(value: float, form: str = ".3f") -> str:
    """A number for a table; a dash for nan."""
    return f"{value:{form}}" if np.isfinite(value) else "-"


def with_interval(row: Mapping, name: str) -> str:
    """A statistic of a row of `summary`, with its interval if it has one."""
    low, high = ("low", "high") if name == "mean" else (f"{name}_low", f"{name}_high")
    return number(row[name]) + (f" [{number(row[low])}, {number(row[high])}]" if np.isfinite(row[low]) else "")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, with an empty one after it."""
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)] + [""]


def describe_region(summary: pd.DataFrame, region: str) -> list[str]:
    """The tables of one region as lines of Markdown."""
    part = summary[summary["region"] == region].set_index(["candidate", "sector", "measure"])
    rows = {key: row.to_dict() for key, row in part.iterrows()}
    names = list(dict.fromkeys(name for name, _, _ in rows))
    others = [name for name in names if name != REAL]

    def row_of(name: str, measure: str, sector: str = WHOLE) -> Mapping:
        """A row of `summary`, nan for the statistics that it lacks."""
        return defaultdict(lambda: np.nan, rows.get((name, sector, measure), {"eyes": 0}))

    lines = [f"## {'Pairs without a region' if region == OTHER_REGION else region.capitalize()}", ""]
    lines += ["Vessels compared with the ground truth, pixels and texture with the real OCT-A; mean", ""]
    measures = (*VESSEL_SCORE_NAMES, *SIMILARITY_NAMES)
    cells = []
    for name in others:
        means = [with_interval(row_of(name, measure), "mean") for measure in measures]
        cells.append([name, f"{row_of(name, 'dice')['eyes']:.0f}", *means])
    lines += markdown_table(["", "eyes", *map(heading, measures)], cells)

    lines += ["This run's large vessels compared with those of the real OCT-A; mean", ""]
    cells = []
    for measure, name in AGREEMENTS.items():
        cells.append([name, *(with_interval(row_of(OURS, f"{way}{measure}"), "mean") for way in WAYS)])
    lines += markdown_table(["", *WAYS.values()], cells)

    for measure in PROPERTIES:
        cells = []
        for name in names:
            if (name, WHOLE, measure) in rows:
                row = row_of(name, measure)
                statistics = [with_interval(row, kind) for kind in ("mean", "pearson", "spearman", "bias")]
                limits = f"{number(row['limit_low'])} to {number(row['limit_high'])}"
                cells.append([name, f"{row['eyes']:.0f}", f"{row['missing']:.0f}", *statistics, limits])
        if cells:
            lines += [f"{heading(measure).capitalize()} compared with the real OCT-A, whole crop", ""]
            columns = ["mean", "Pearson's r", "Spearman's rho", "bias", "limits of agreement"]
            lines += markdown_table(["", "eyes", "missing", *columns], cells)

    if sectors := SECTORS[region][1:]:
        lines += ["Vessel density by sector: Pearson's r with the real OCT-A (eyes with the sector)", ""]
        cells = []
        for name in others:
            by_sector = [row_of(name, "vessel_density", sector) for sector in sectors]
            cells.append([name, *(f"{number(row['pearson'])} ({row['eyes']:.0f})" for row in by_sector)])
        lines += markdown_table(["", *sectors], cells)

    lines += ["Difference from this run, on the eyes that both have", ""]
    measures = ("roc_auc", "average_precision", "dice", "cldice")
    cells = []
    for name in others:
        if name != OURS:
            by_measure = [row_of(name, measure) for measure in measures]
            pairs = [(with_interval(row, "difference"), number(row["p"], ".2g")) for row in by_measure]
            cells.append([name, *chain(*pairs)])
    headings = chain(*((heading(measure), f"{heading(measure)}, p") for measure in measures))
    return lines + markdown_table(["", *headings], cells)


def describe(title: str, notes: Sequence[str], summary: pd.DataFrame) -> str:
    """The complete report, as Markdown: a title, notes as a list, the tables of each region."""
    lines = [f"# {title}", "", *(f"- {note}" for note in notes), ""]
    for region in regions_of(summary):
        lines += describe_region(summary, region)
    return "\n".join(lines)


def headlines(summary: pd.DataFrame) -> list[str]:
    """Lines to print: ROC AUC, Dice, clDice, density and its correlation of every candidate.

    And how this run agrees with the real OCT-A as it lies and registered.
    """
    lines = []
    for region, part in summary[summary["sector"] == WHOLE].groupby("region", sort=False):
        lines.append(f"{region:26} ROC AUC    Dice  clDice  density  Pearson's r")
        for name, rows in part[part["candidate"] != REAL].groupby("candidate", sort=False):
            of = rows.set_index("measure")
            means = [number(of.loc[measure, "mean"]) for measure in ("roc_auc", "dice", "cldice", "vessel_density")]
            r = number(of.loc["vessel_density"].get("pearson", np.nan))
            lines.append(f"  {name:24} {means[0]:>7} {means[1]:>7} {means[2]:>7} {means[3]:>8} {r:>12}")
        ours = part[part["candidate"] == OURS].set_index("measure")["mean"]
        for measure, name in AGREEMENTS.items():
            by_way = (f"{label} {number(ours[way + measure])}" for way, label in WAYS.items())
            lines.append(f"  {OURS}, {name} with the real OCT-A: {'; '.join(by_way)}")
    return lines


# --- figures ---------------------------------------------------------------------------------------------------------


def regions_of(table: pd.DataFrame) -> list[str]:
    """The regions of `per_eye` or `summary`, in their usual order."""
    return [region for region in CROP_MM if region in set(table["region"])]


def draw_densities(per_eye: pd.DataFrame, summary: pd.DataFrame, agreement: bool) -> Figure:
    """Vessel density of each candidate against that of the real OCT-A; with `agreement` as a Bland-Altman plot."""
    regions, names = regions_of(per_eye), [name for name in per_eye["candidate"].unique() if name != REAL]
    of_density = (summary["sector"] == WHOLE) & (summary["measure"] == "vessel_density")
    lines = summary[of_density].set_index(["region", "candidate"])
    whole = per_eye[per_eye["sector"] == WHOLE]
    figure = Figure(figsize=(2.1 * len(names) + 0.6, 2.2 * len(regions) + 0.5), layout="constrained")
    panels = figure.subplots(len(regions), len(names), squeeze=False, sharex="row", sharey="row")
    for row, region in zip(panels, regions, strict=True):
        part = whole[whole["region"] == region]
        table = part.pivot(index="name", columns="candidate", values="vessel_density")
        real = table[REAL].to_numpy()
        limits = np.nanmin(table) - DENSITY_MARGIN, np.nanmax(table) + DENSITY_MARGIN
        for panel, name, colour in zip(row, names, np.resize(COLOURS, len(names)), strict=True):
            panel.set_title(name if region == regions[0] else "", fontsize=8)
            panel.tick_params(labelsize=7)
            if name not in table:
                continue
            values = table[name].to_numpy()
            if agreement:
                panel.plot((values + real) / 2, values - real, ".", color=colour, markersize=4)
                panel.axhline(0, color="0.6", linewidth=0.6)
                for column, style in (("bias", "-"), ("limit_low", "--"), ("limit_high", "--")):
                    height = lines.loc[region, name].get(column, np.nan)
                    panel.axhline(height, color=colour, linewidth=0.8, linestyle=style)
            else:
                panel.plot(real, values, ".", color=colour, markersize=4)
                panel.axline((0, 0), slope=1, color="0.6", linewidth=0.6)
                panel.set(xlim=limits, ylim=limits, aspect="equal")
        row[0].set_ylabel(f"{region}: {'candidate - real' if agreement else 'candidate'}", fontsize=8)
    figure.supxlabel("mean of the two vessel densities" if agreement else "vessel density, real OCT-A", fontsize=8)
    return figure


def draw_precision_recall(counts: Mapping[tuple[str, str], np.ndarray]) -> Figure:
    """Pooled precision-recall curves of all candidates by region."""
    regions = [region for region in CROP_MM if any(region == key[0] for key in counts)]
    figure = Figure(figsize=(4 * len(regions), 3.8), layout="constrained")
    for panel, region in zip(figure.subplots(1, len(regions), squeeze=False)[0], regions, strict=True):
        of_region = {name: pixels for (place, name), pixels in counts.items() if place == region}
        for (name, pixels), colour in zip(of_region.items(), np.resize(COLOURS, len(of_region)), strict=True):
            if pixels[1].any():
                precision, recall, area = pooled_curve(pixels)
                panel.plot(recall, precision, color=colour, linewidth=1.2, label=f"{name} ({area:.2f})")
        panel.set(title=region, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        panel.legend(fontsize=7, loc="lower left", title="average precision", title_fontsize=7)
    return figure


@dataclass(frozen=True)
class MontageRow:
    """One eye of a montage; the arrays are (height, width)."""

    label: str
    fundus: np.ndarray  # (height, width, 3), uint8
    octa: np.ndarray  # the real one, float on [0, 1]
    synthetic: np.ndarray  # float on [0, 1]
    truth: np.ndarray  # ground truth vessels, bool
    vessels: np.ndarray  # of the synthetic OCT-A, bool


def draw_montage(rows: Sequence[MontageRow]) -> Figure:
    """Fundus, real and synthetic OCT-A, and the vessels of both, of some eyes."""
    figure = Figure(figsize=(8.4, 2.2 * len(rows) + 0.3), layout="constrained")
    panels = figure.subplots(len(rows), 4, squeeze=False)
    for line, row in zip(panels, rows, strict=True):
        overlay = missed_and_invented(row.truth, row.vessels)
        for panel, picture in zip(line, (row.fundus, row.octa, row.synthetic, overlay), strict=True):
            panel.imshow(picture, cmap="gray", vmin=0, vmax=1)
            panel.set(xticks=[], yticks=[])
        line[0].set_ylabel(row.label, fontsize=8)
    titles = ("fundus", "real OCT-A", "synthetic OCT-A", "vessels: both, missed, invented")
    for panel, title in zip(panels[0], titles, strict=True):
        panel.set_title(title, fontsize=8)
    legend = "vessels: white in both, orange in the real OCT-A only, blue in the synthetic one only"
    figure.supxlabel(legend, fontsize=7)
    return figure


# --- files -----------------------------------------------------------------------------------------------------------


def write_results(folder: Path, tables: Mapping[str, pd.DataFrame], report: str, figures: Mapping[str, Figure]) -> Path:
    """Write NAME.csv for each table, summary.md and NAME.png for each figure into a new folder, atomically.

    Returns:
        The folder; with a number behind its name if the name was taken.

    Raises:
        OSError: of the disk; it names the folder, and nothing is left behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors_name(folder), tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as hidden:
        made = Path(hidden) / "results"
        made.mkdir()
        for name, table in tables.items():
            table.to_csv(made / f"{name}.csv", index=False, float_format="%.6g")
        (made / "summary.md").write_text(report, encoding="utf-8")
        for name, figure in figures.items():
            figure.savefig(made / f"{name}.png", dpi=DPI)
        names = (folder if number == 1 else folder.with_name(f"{folder.name}-{number}") for number in count(1))
        return made.rename(next(name for name in names if not name.exists()))
