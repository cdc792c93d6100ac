"""Figures of an evaluation; `evaluation.report` describes the data that they are drawn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evaluation.measures import OURS, REAL
from evaluation.report import counted, regions_of, shown_name, with_interval
from evaluation.statistics import pooled_curve
from retina.pictures import missed_and_invented
from retina.vessels import WHOLE

DENSITY_MARGIN = 0.02  # around the points of a figure
FAR = 1.5  # interquartile ranges beyond the quartiles: other methods' points farther away are shown at the edge
OUTLIER = 0.1  # change of r without one eye, above which that eye is marked
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")  # Okabe and Ito
STATISTICS = [
    f"{name}{end}" for name in ("pearson", "bias", "limit_low", "limit_high") for end in ("", "_low", "_high")
]
LEAST_RECALL = 0.01  # of a curve: below it, precision is that of a few pixels
TICKS = 4


def draw_densities(per_eye: pd.DataFrame, summary: pd.DataFrame, agreement: bool, reference: str) -> Figure:
    """Vessel density of each candidate against the reference's; with `agreement` as a Bland-Altman plot.

    Each panel has a letter, the number of eyes, and r or the bias with its interval. Points beyond the axes are
    triangles at the edge. The eye that changes r most has a ring and its name, if the change is more than OUTLIER.
    """
    regions, names = regions_of(per_eye), [name for name in per_eye["candidate"].unique() if name != REAL]
    of_density = (summary["sector"] == WHOLE) & (summary["measure"] == "vessel_density")
    rows = {
        (row["region"], row["candidate"]): row
        for row in summary[of_density].reindex(columns=sorted({*summary, *STATISTICS})).to_dict("records")
    }
    whole = per_eye[per_eye["sector"] == WHOLE]
    figure = Figure(figsize=(2.1 * len(names) + 0.6, 2.5 * len(regions) + 0.5), layout="constrained")
    panels = figure.subplots(len(regions), len(names), squeeze=False)
    letter = count(ord("A"))
    for line, region in zip(panels, regions, strict=True):
        table = whole[whole["region"] == region].pivot(index="name", columns="candidate", values="vessel_density")
        real = table[REAL].to_numpy()
        shown = {name: table[name].to_numpy() for name in names if name in table}
        heights = {name: values - real for name, values in shown.items()} if agreement else shown
        low, high = axis_limits([*heights.values()] if agreement else [real, *heights.values()], heights.get(OURS))
        across = axis_limits([(values + real) / 2 for values in shown.values()], None) if agreement else (low, high)
        for panel, name, colour in zip(line, names, np.resize(COLOURS, len(names)), strict=True):
            panel.tick_params(labelsize=6)
            if name not in shown:
                panel.set_axis_off()
                continue
            row = rows[region, name]
            places = (shown[name] + real) / 2 if agreement else real
            drawn = draw_points(panel, places, heights[name], across, (low, high), colour)
            statistic = "bias " + with_interval(row, "bias") if agreement else "r " + with_interval(row, "pearson")
            title = f"{chr(next(letter))}  {name}\n{counted(row['eyes'], 'eye')}; {statistic}"
            if agreement:
                draw_limits(panel, row, colour)
            else:
                panel.axline((low, low), slope=1, color="0.6", linewidth=0.6)
                title += "\n"  # so that the panels of a line are equally high
                if (outlier := find_outlier(real, shown[name])) is not None:
                    place, r = outlier
                    panel.plot(*drawn[place], "o", color="0.3", markersize=8, fillstyle="none", markeredgewidth=0.6)
                    title += f"ring: {table.index[place]}, without it r {r:.2f}"
            panel.set(xlim=across, ylim=(low, high))
            for axis in (panel.xaxis, panel.yaxis):
                axis.set_major_locator(MaxNLocator(TICKS))
            panel.set_title(title, fontsize=6, loc="left")
        line[0].set_ylabel(f"{region}: {'candidate - reference' if agreement else 'candidate'}", fontsize=7)
    label = "mean of the two vessel densities" if agreement else f"vessel density, {shown_name(REAL, reference)}"
    figure.supxlabel(label, fontsize=7)
    return figure


def axis_limits(groups: Sequence[np.ndarray], always: np.ndarray | None) -> tuple[float, float]:
    """Limits that show all of `always`, and some groups of values except those FAR from the rest of their group."""
    kept = [] if always is None else [always[np.isfinite(always)]]
    for values in groups:
        values = values[np.isfinite(values)]
        if values.size:
            low, high = np.quantile(values, (0.25, 0.75))
            reach = FAR * (high - low) + DENSITY_MARGIN
            kept.append(values[(values >= low - reach) & (values <= high + reach)])
    every = np.concatenate(kept)
    return float(every.min() - DENSITY_MARGIN), float(every.max() + DENSITY_MARGIN)


def draw_points(
    panel, x: np.ndarray, y: np.ndarray, across: tuple[float, float], up: tuple[float, float], colour: str
) -> np.ndarray:
    """Draw points; those beyond the limits as triangles at the edge. Returns where they are drawn: (points, 2)."""
    places = np.stack([to_edge(x, across), to_edge(y, up)], axis=1)
    marks = np.select([y < up[0], y > up[1], x < across[0], x > across[1]], ["v", "^", "<", ">"], ".")
    for mark in np.unique(marks):
        fill = "full" if mark == "." else "none"
        panel.plot(*places[marks == mark].T, mark, color=colour, markersize=4, fillstyle=fill)
    return places


def to_edge(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Values beyond the limits moved just inside them."""
    low, high = limits
    edge = 0.02 * (high - low)
    return np.select([values < low, values > high], [low + edge, high - edge], values)


def draw_limits(panel, row: Mapping, colour: str) -> None:
    """Draw bias and limits of agreement of a row of `summary`, with the limits' intervals as bands."""
    panel.axhline(0, color="0.6", linewidth=0.6)
    for kind, style in (("bias", "-"), ("limit_low", "--"), ("limit_high", "--")):
        if np.isfinite(row[kind]):
            panel.axhline(row[kind], color=colour, linewidth=0.8, linestyle=style)
        if kind != "bias" and np.isfinite(row[f"{kind}_low"]):
            panel.axhspan(row[f"{kind}_low"], row[f"{kind}_high"], color=colour, alpha=0.12, linewidth=0)


def find_outlier(real: np.ndarray, values: np.ndarray) -> tuple[int, float] | None:
    """The index of the eye that changes r most if left out, with r without it.

    None if it changes r by no more than OUTLIER, for fewer than 5 eyes, and if either density is the same in all eyes.
    """
    found = np.flatnonzero(np.isfinite(real) & np.isfinite(values))
    if len(found) < 5 or np.ptp(real[found]) == 0 or np.ptp(values[found]) == 0:
        return None
    whole = np.corrcoef(real[found], values[found])[0, 1]
    without = np.array([correlation_without(real, values, found, place) for place in found])
    most = int(np.nanargmax(np.abs(without - whole))) if np.isfinite(without).any() else 0
    return (int(found[most]), float(without[most])) if abs(without[most] - whole) > OUTLIER else None


def correlation_without(real: np.ndarray, values: np.ndarray, found: np.ndarray, place: int) -> float:
    """Pearson's r without one eye; nan if the others are all equal."""
    kept = found[found != place]
    if np.ptp(real[kept]) == 0 or np.ptp(values[kept]) == 0:
        return np.nan
    return float(np.corrcoef(real[kept], values[kept])[0, 1])


def draw_precision_recall(counts: Mapping[tuple[str, str], np.ndarray], per_eye: pd.DataFrame) -> Figure:
    """Precision-recall curves of all pixels of all eyes together, by region; a dot is the mean of the vessel maps."""
    whole = per_eye[per_eye["sector"] == WHOLE]
    regions = [region for region in regions_of(per_eye) if any(region == key[0] for key in counts)]
    figure = Figure(figsize=(4.2 * len(regions), 3.9), layout="constrained")
    for panel, region, letter in zip(
        figure.subplots(1, len(regions), squeeze=False)[0], regions, "ABC"[: len(regions)], strict=True
    ):
        of_region = {name: pixels for (place, name), pixels in counts.items() if place == region}
        for (name, pixels), colour in zip(of_region.items(), np.resize(COLOURS, len(of_region)), strict=True):
            if not pixels[1].any():
                continue
            precision, recall, area = pooled_curve(pixels)
            shown = recall >= LEAST_RECALL
            panel.plot(recall[shown], precision[shown], color=colour, linewidth=1.2, label=f"{name} ({area:.2f})")
            eyes = whole[(whole["region"] == region) & (whole["candidate"] == name)]
            recalls, precisions = eyes["sensitivity"], precision_of(eyes["dice"], eyes["sensitivity"])
            panel.plot(recalls.mean(), precisions.mean(), "o", color=colour, markersize=5, markeredgecolor="white")
        panel.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        panel.set_title(f"{letter}  {region}", fontsize=8, loc="left")
        panel.legend(fontsize=6, loc="lower left", title="average precision, all pixels pooled", title_fontsize=6)
    return figure


def precision_of(dice: pd.Series, recall: pd.Series) -> pd.Series:
    """Precision from Dice and recall: 2 / Dice = 1 / precision + 1 / recall."""
    return dice * recall / (2 * recall - dice)


@dataclass(frozen=True)
class MontageRow:
    """One eye of a montage; the arrays are (height, width)."""

    label: str
    fundus: np.ndarray  # (height, width, 3), uint8
    octa: np.ndarray  # the real one, float on [0, 1]
    synthetic: np.ndarray  # float on [0, 1]
    truth: np.ndarray  # vessels of the reference, bool
    vessels: np.ndarray  # of the synthetic OCT-A, bool
    mm_per_px: float


def draw_montage(rows: Sequence[MontageRow], reference: str) -> Figure:
    """Fundus, real and synthetic OCT-A, and the vessels of both, of some eyes; a bar is 1 mm long."""
    figure = Figure(figsize=(8.4, 2.2 * len(rows) + 0.4), layout="constrained")
    panels = figure.subplots(len(rows), 4, squeeze=False)
    for number, (line, row) in enumerate(zip(panels, rows, strict=True)):
        overlay = missed_and_invented(row.truth, row.vessels)
        for panel, picture in zip(line, (row.fundus, row.octa, row.synthetic, overlay), strict=True):
            panel.imshow(picture, cmap="gray", vmin=0, vmax=1)
            panel.set(xticks=[], yticks=[])
        height, width = row.truth.shape
        left, bottom = 0.05 * width, 0.95 * height
        line[0].plot([left, left + 1 / row.mm_per_px], [bottom, bottom], color="white", linewidth=2)
        line[0].set_ylabel(f"{chr(ord('A') + number)}  {row.label}", fontsize=7)
    for panel, title in zip(panels[0], ("fundus", "real OCT-A", "synthetic OCT-A", "vessels"), strict=True):
        panel.set_title(title, fontsize=8)
    legend = f"white: in both; orange: missed, only in the {shown_name(REAL, reference)}; blue: invented"
    figure.supxlabel(f"vessels: {legend}; bar: 1 mm", fontsize=7)
    return figure


def caption_of(name: str) -> str:
    """The caption of a figure in the report."""
    captions = {
        "density_scatter": "Vessel density of each eye against the reference's; on the line they are equal. Triangles "
        "mark eyes beyond the axis. A ring marks the eye without which r differs by more than 0.1.",
        "bland_altman": "Difference of each eye's vessel density from the reference's: mean (line), limits within "
        "which 95 % of the differences lie (dashed), the limits' own 95 % intervals (bands). Triangles mark eyes "
        "beyond the axis.",
        "precision_recall": "Precision and recall at every threshold of the vessel probability, all pixels of all eyes "
        "together: an eye with a higher probability throughout counts more here than in the tables. Dots: mean of the "
        "eyes' vessel maps, each at its own threshold; they may lie off the curve.",
    }
    return captions.get(name, "Eyes with the best, the median and the worst Dice of this run.")
