"""Figures of an evaluation; `evaluation.report` describes the data that they are drawn from."""

from collections.abc import Mapping
from itertools import count

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evaluation.evaluate import MONTAGE, Evaluation
from evaluation.inputs import regions_of
from evaluation.measures import REAL
from evaluation.report import counted, with_interval
from retina.images import black_outside
from retina.pictures import missed_and_invented
from retina.vessels import WHOLE

DENSITY_MARGIN = 0.02  # around the points of a figure
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")  # Okabe and Ito
TICKS = 4


def draw_figures(evaluation: Evaluation, per_eye: pd.DataFrame, summary: pd.DataFrame) -> dict[str, Figure]:
    """Every figure by its name; that of a region's montage is MONTAGE + region."""
    kind = evaluation.truth.kind
    return {MONTAGE + region: draw_montage(evaluation, per_eye, region) for region in regions_of(per_eye)} | {
        "density_scatter": draw_densities(per_eye, summary, False, kind),
        "bland_altman": draw_densities(per_eye, summary, True, kind),
    }


def draw_densities(per_eye: pd.DataFrame, summary: pd.DataFrame, agreement: bool, kind: str) -> Figure:
    """Vessel density of each candidate against the reference's, of a `kind`; with `agreement` as a Bland-Altman plot.

    Each panel has a letter, the number of eyes, and r or the bias with its interval.
    """
    regions, names = regions_of(per_eye), [name for name in per_eye["candidate"].unique() if name != REAL]
    whole = per_eye[per_eye["sector"] == WHOLE]
    figure = Figure(figsize=(2.1 * len(names) + 0.6, 2.4 * len(regions) + 0.5), layout="constrained")
    panels = figure.subplots(len(regions), len(names), squeeze=False, sharex="row", sharey="row")
    letter = count(ord("A"))
    for line, region in zip(panels, regions, strict=True):
        table = whole[whole["region"] == region].pivot(index="name", columns="candidate", values="vessel_density")
        of_region = summary[(summary["region"] == region) & (summary["sector"] == WHOLE)]
        rows = of_region[of_region["measure"] == "vessel_density"].set_index("candidate", drop=False)
        limits = np.nanmin(table) - DENSITY_MARGIN, np.nanmax(table) + DENSITY_MARGIN
        for panel, name, colour in zip(line, names, np.resize(COLOURS, len(names)), strict=True):
            if name not in table:
                panel.set_axis_off()
                continue
            row = rows.loc[name]
            x, y = table[REAL], table[name]
            if agreement:
                x, y = (x + y) / 2, y - x
                draw_limits(panel, row, colour)
            else:
                panel.axline((limits[0], limits[0]), slope=1, color="0.6", linewidth=0.6)
                panel.set(xlim=limits, ylim=limits)
            panel.plot(x, y, ".", color=colour, markersize=4)
            statistic = f"bias {with_interval(row, 'bias')}" if agreement else f"r {with_interval(row, 'pearson')}"
            title = f"{chr(next(letter))}  {name}\n{counted(row['eyes'], 'eye')}; {statistic}"
            panel.set_title(title, fontsize=6, loc="left")
            panel.tick_params(labelsize=6, labelleft=True)
            for axis in (panel.xaxis, panel.yaxis):
                axis.set_major_locator(MaxNLocator(TICKS))
        line[0].set_ylabel(f"{region}: {'candidate - reference' if agreement else 'candidate'}", fontsize=7)
    label = "mean of the two vessel densities" if agreement else f"vessel density, reference ({kind})"
    figure.supxlabel(label, fontsize=7)
    return figure


def draw_limits(panel, row: Mapping, colour: str) -> None:
    """Draw bias and limits of agreement of a row of `summary`, with the limits' intervals as bands."""
    panel.axhline(0, color="0.6", linewidth=0.6)
    for kind, style in (("bias", "-"), ("limit_low", "--"), ("limit_high", "--")):
        if np.isfinite(row.get(kind, np.nan)):
            panel.axhline(row[kind], color=colour, linewidth=0.8, linestyle=style)
        if kind != "bias" and np.isfinite(row.get(f"{kind}_low", np.nan)):
            panel.axhspan(row[f"{kind}_low"], row[f"{kind}_high"], color=colour, alpha=0.12, linewidth=0)


def draw_montage(evaluation: Evaluation, per_eye: pd.DataFrame, region: str) -> Figure:
    """Fundus, real and synthetic OCT-A, and the vessels of both, of the `ranked` eyes; a bar is 1 mm long."""
    eyes = list(evaluation.ranked(per_eye, region))
    figure = Figure(figsize=(8.4, 2.2 * len(eyes) + 0.4), layout="constrained")
    panels = figure.subplots(len(eyes), 4, squeeze=False)
    for line, (label, eye), letter in zip(panels, eyes, "ABC"[: len(eyes)], strict=True):
        ours = eye.candidates[0]
        overlay = missed_and_invented(eye.truth(), ours.segment(eye.fov, region)[1])
        pictures = black_outside(eye.fundus, eye.fov), black_outside(eye.octa, eye.fov), ours.image, overlay
        for panel, picture in zip(line, pictures, strict=True):
            panel.imshow(picture, cmap="gray", vmin=0, vmax=1)
            panel.set(xticks=[], yticks=[])
        height, width = eye.fov.shape
        left, bottom = 0.05 * width, 0.95 * height
        line[0].plot(
            [left, left + 1 / eye.mm_per_px], [bottom, bottom], color="white", linewidth=2, solid_capstyle="butt"
        )
        line[0].set_ylabel(f"{letter}  {label}", fontsize=7)
    for panel, title in zip(panels[0], ("fundus", evaluation.octa, "synthetic OCT-A", "vessels"), strict=True):
        panel.set_title(title, fontsize=8)
    legend = f"white: in both; orange: missed, only in the reference ({evaluation.truth.kind}); blue: invented"
    figure.supxlabel(f"vessels: {legend}; bar: 1 mm", fontsize=7)
    return figure
