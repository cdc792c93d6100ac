"""Figures of an evaluation, from the data handed in: see `eval_report` for what these are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eval_report import regions_of, shown_name, with_interval
from eye_measures import OURS, REAL
from eye_picture import missed_and_invented
from vessel_metrics import WHOLE
from vessel_statistics import pooled_curve

DENSITY_MARGIN = 0.02  # around the points of a figure
FAR = 1.5  # interquartile ranges beyond the quartiles: other methods' points farther away are shown at the edge
OUTLIER = 0.1  # in r, that leaving one eye out changes: it is named
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")  # Okabe and Ito
STATISTICS = [
    f"{name}{end}" for name in ("pearson", "bias", "limit_low", "limit_high") for end in ("", "_low", "_high")
]
LEAST_RECALL = 0.01  # of a curve: below it, precision is that of a few pixels
TICKS = 4


def draw_densities(per_eye: pd.DataFrame, summary: pd.DataFrame, agreement: bool, reference: str) -> Figure:
    """Vessel density of each candidate against the reference's; with `agreement` as a Bland-Altman plot.

    Each panel has a letter, the number of eyes, and r or the bias with its interval. Points beyond the axes are
    triangles at the edge. The eye that changes r most is named, if that is more than OUTLIER.
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
            draw_points(panel, places, heights[name], (low, high), colour)
            if agreement:
                draw_limits(panel, row, colour)
            else:
                panel.axline((low, low), slope=1, color="0.6", linewidth=0.6)
                name_outlier(panel, real, shown[name], list(table.index))
            panel.set(xlim=across, ylim=(low, high))
            for axis in (panel.xaxis, panel.yaxis):
                axis.set_major_locator(MaxNLocator(TICKS))
            statistic = "bias " + with_interval(row, "bias") if agreement else "r " + with_interval(row, "pearson")
            panel.set_title(f"{chr(next(letter))}  {name}\n{row['eyes']} eyes; {statistic}", fontsize=6, loc="left")
        line[0].set_ylabel(f"{region}: {'candidate - reference' if agreement else 'candidate'}", fontsize=7)
    label = "mean of the two vessel densities" if agreement else f"vessel density, {shown_name(REAL, reference)}"
    figure.supxlabel(label, fontsize=7)
    return figure


def axis_limits(groups: Sequence[np.ndarray], always: np.ndarray | None) -> tuple[float, float]:
    """Limits that show some groups of values without those FAR from the rest of their group, and all of `always`."""
    kept = [] if always is None else [always[np.isfinite(always)]]
    for values in groups:
        values = values[np.isfinite(values)]
        if values.size:
            low, high = np.quantile(values, (0.25, 0.75))
            reach = FAR * (high - low) + DENSITY_MARGIN
            kept.append(values[(values >= low - reach) & (values <= high + reach)])
    every = np.concatenate(kept)
    return float(every.min() - DENSITY_MARGIN), float(every.max() + DENSITY_MARGIN)


def draw_points(panel, x: np.ndarray, y: np.ndarray, limits: tuple[float, float], colour: str) -> None:
    """Draw points; those above or below the limits as triangles at the edge."""
    low, high = limits
    edge = 0.02 * (high - low)
    for outside, marker, height in ((y < low, "v", low + edge), (y > high, "^", high - edge)):
        panel.plot(x[outside], np.full(outside.sum(), height), marker, color=colour, markersize=4, fillstyle="none")
    inside = (y >= low) & (y <= high)
    panel.plot(x[inside], y[inside], ".", color=colour, markersize=4)


def draw_limits(panel, row: Mapping, colour: str) -> None:
    """Draw bias and limits of agreement of a row of `summary`, with the limits' intervals as bands."""
    panel.axhline(0, color="0.6", linewidth=0.6)
    for kind, style in (("bias", "-"), ("limit_low", "--"), ("limit_high", "--")):
        if np.isfinite(row[kind]):
            panel.axhline(row[kind], color=colour, linewidth=0.8, linestyle=style)
        if kind != "bias" and np.isfinite(row[f"{kind}_low"]):
            panel.axhspan(row[f"{kind}_low"], row[f"{kind}_high"], color=colour, alpha=0.12, linewidth=0)


def name_outlier(panel, real: np.ndarray, values: np.ndarray, names: Sequence[str]) -> None:
    """Write the name of the eye without which r is most different, with that r, if it is by more than OUTLIER."""
    found = np.flatnonzero(np.isfinite(real) & np.isfinite(values))
    if len(found) < 5 or np.ptp(real[found]) == 0 or np.ptp(values[found]) == 0:
        return
    whole = np.corrcoef(real[found], values[found])[0, 1]
    without = np.array([correlation_without(real, values, found, place) for place in found])
    most = int(np.nanargmax(np.abs(without - whole))) if np.isfinite(without).any() else 0
    if abs(without[most] - whole) > OUTLIER:
        text = f"{names[found[most]]}\n(r {without[most]:.2f} without)"
        place = real[found[most]], values[found[most]]
        panel.annotate(text, place, xytext=(3, 3), textcoords="offset points", fontsize=5, color="0.3", clip_on=True)


def correlation_without(real: np.ndarray, values: np.ndarray, found: np.ndarray, place: int) -> float:
    """Pearson's r without one eye; nan if the others have one value."""
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
    """What a figure shows, for the report."""
    captions = {
        "density_scatter": "Vessel density of each eye against the reference's. Triangles lie beyond the axis.",
        "bland_altman": "Differences from the reference: bias (line), limits of agreement (dashed), their intervals.",
        "precision_recall": "All pixels of all eyes together; dots: mean precision and recall of the vessel maps.",
    }
    return captions.get(name, "Eyes with the best, the median and the worst Dice of this run.")
