"""Figures for checking: one for each photograph, and sheets of many, on which an odd one stands out."""

from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from basics.files import atomic_file
from pairs.origin import Origin, write_png
from retina.pictures import with_border, with_vessels
from retina.vessels import WHOLE
from synthesis.photographs import SHEET
from synthesis.synthesiser import Result

TITLES = "Fundus, field of view", "Synthetic OCT-A", "Vessels"  # of the panels
PANEL = 3.3  # inches: width of a panel of a photograph that is no higher than wide
DPI = 150
SHOWN_PX = 1200  # least of a reduced image's longer side, more than a panel has; up to twice that, nothing is reduced
ON_SHEET, SHEET_WIDTH = 24, 2  # figures on a sheet, and in a row of it
SHEET_PX = 900  # width of a figure on a sheet
GREEN, RED = (12, 126, 66), (188, 22, 38)  # its frame
CONFIDENCE = "Comment"  # the key in a figure's PNG
DRAWING = Lock()  # matplotlib is not made for threads


def write_figure(path: Path, result: Result, caption: str, origin: Origin) -> None:
    """Draw fundus, synthetic OCT-A and the vessels over the fundus, with a caption, as a PNG.

    The PNG also holds the confidence, for `write_sheets`, and the origin.

    Raises:
        OSError: it cannot be written.
    """
    with DRAWING:
        figure = drawn_figure(result, caption)
        with atomic_file(path) as part:
            metadata = {CONFIDENCE: str(result.confidence)} | origin.texts()
            figure.savefig(part, format="png", metadata=metadata)


def drawn_figure(result: Result, caption: str) -> Figure:
    """The figure; with a bar of 1 mm if the scale is known, and with the outlines of the sectors that are measured."""
    fundus, fov, octa, vessels = result.fundus, result.fov, result.octa, result.vessels
    px_per_mm = result.px_per_mm
    height, width = fov.shape
    panel_width = PANEL * min(1.0, width / height)
    size = len(TITLES) * max(panel_width, 2.0), panel_width * height / width + 0.75
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(TITLES))
    for panel, title in zip(panels, TITLES, strict=True):
        panel.set_title(title, fontsize=8)
        panel.set_axis_off()
    step = max(1, max(height, width) // SHOWN_PX)  # every n-th pixel
    fundus, fov, octa, vessels = (image[::step, ::step] for image in (fundus, fov, octa, vessels))
    panels[0].imshow(with_border(fundus, fov))
    panels[1].imshow(octa, cmap="gray", vmin=0, vmax=1)
    panels[2].imshow(with_vessels(fundus, vessels))
    for name, mask in result.offered.items():
        if name != WHOLE:
            for colour, points in (("black", 1.2), ("white", 0.5)):
                panels[2].contour(mask[::step, ::step], [0.5], colors=colour, linewidths=points)
    if px_per_mm is not None:
        left, bottom = 0.04 * octa.shape[1], 0.97 * octa.shape[0]
        right = left + px_per_mm * octa.shape[1] / width
        panels[1].plot([left, right], [bottom, bottom], color="white", linewidth=2, solid_capstyle="butt")
        panels[1].text(left, bottom - 0.015 * octa.shape[0], "1 mm", color="white", fontsize=6, va="bottom")
    figure.supxlabel(caption.replace("$", r"\$"), fontsize=7)  # matplotlib takes text between dollars for a formula
    return figure


def write_sheets(figures: Sequence[Path], folder: Path, origin: Origin, shard: str = "") -> list[Path]:
    """Write sheets of some figures in their order, each with its confidence in colour; returns their paths.

    `origin` is that of the sheets, which every PNG of the program tells; `shard`: in their names.

    Raises:
        OSError: one cannot be written.
    """
    sheets = []
    for number, first in enumerate(range(0, len(figures), ON_SHEET), 1):
        tiles = [framed(path) for path in figures[first : first + ON_SHEET]]
        starts = range(0, len(tiles), SHEET_WIDTH)
        heights = [max(tile.height for tile in tiles[start : start + SHEET_WIDTH]) for start in starts]
        sheet = Image.new("RGB", (SHEET_WIDTH * SHEET_PX, sum(heights)), "white")
        for place, tile in enumerate(tiles):
            row, column = divmod(place, SHEET_WIDTH)
            sheet.paste(tile, (column * SHEET_PX, sum(heights[:row])))
        sheets.append(folder / SHEET.format(f"{shard}_{number}" if shard else number))
        write_png(np.asarray(sheet), sheets[-1], origin)
    return sheets


def framed(path: Path) -> Image.Image:
    """A figure for a sheet: small, in a frame that is green if its photograph is usable, otherwise red."""
    with Image.open(path) as figure:
        colour = GREEN if figure.text.get(CONFIDENCE) == "usable" else RED
        small = figure.convert("RGB")
    margin = SHEET_PX // 150
    inner = SHEET_PX - 4 * margin
    small = small.resize((inner, max(1, round(small.height * inner / small.width))), Image.Resampling.LANCZOS)
    return ImageOps.expand(ImageOps.expand(small, margin, colour), margin, "white")
