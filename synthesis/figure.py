"""Figures for checking: one for each photograph, and sheets of many, on which an odd one stands out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from basics.command_line import one_line
from basics.files import atomic_file
from pairs.finished import Origin, write_png
from retina.pictures import with_border, with_vessels
from synthesis.photographs import SHEET

PANEL = 3.3  # inches: width of a panel of a photograph that is no higher than wide
DPI = 150
MOST_DISAGREEMENT = 0.25  # at the end of the colour scale
SHOWN_PX = 1200  # least of a reduced image's longer side, more than a panel has; up to twice that, nothing is reduced
ON_SHEET, SHEET_WIDTH = 24, 2  # figures on a sheet, and in a row of it
SHEET_PX = 900  # width of a figure on a sheet
VERDICT = "Comment"  # the key of the verdict in a figure's PNG


@dataclass(frozen=True)
class Shown:
    """What a figure shows of a photograph; images are (height, width)."""

    name: str  # of the photograph, with its subfolder
    fundus: np.ndarray  # (height, width, 3), uint8
    fov: np.ndarray  # bool: inside the field of view
    octa: np.ndarray  # synthetic, float on [0, 1]
    vessels: np.ndarray  # bool
    disagreement: np.ndarray | None  # between passes, float on [0, 0.5]; None: there was one
    px_per_mm: float | None  # None: unknown
    is_assumed: bool  # the scale is assumed, not given
    density: float  # of vessels
    weights: str  # their path, with a remark
    passes: str  # in words, see `Synthesis.passes`; "": several
    verdict: str
    origin: Origin


def write_figure(shown: Shown, path: Path) -> None:
    """Draw fundus, synthetic OCT-A, the vessels over the fundus and the disagreement, with a caption, as a PNG.

    Raises:
        OSError: it cannot be written.
    """
    height, width = shown.fov.shape
    titles = ["Fundus, field of view", "Synthetic OCT-A", "Vessels"]
    titles += ["Disagreement between passes"] if shown.disagreement is not None else []
    panel_width = PANEL * min(1.0, width / height)
    panel_height = panel_width * height / width
    figure = Figure(figsize=(len(titles) * max(panel_width, 2.0), panel_height + 0.75), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(titles))
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(title, fontsize=8)
        panel.set_axis_off()
    fundus, fov, octa, vessels = (smaller(image) for image in (shown.fundus, shown.fov, shown.octa, shown.vessels))
    panels[0].imshow(with_border(fundus, fov))
    panels[1].imshow(octa, cmap="gray", vmin=0, vmax=1)
    panels[2].imshow(with_vessels(fundus, vessels))
    if shown.disagreement is not None:
        seen = panels[3].imshow(smaller(shown.disagreement), cmap="magma", vmin=0, vmax=MOST_DISAGREEMENT)
        figure.colorbar(seen, ax=panels[3], fraction=0.04, pad=0.01).ax.tick_params(labelsize=6)
    if shown.px_per_mm is not None:
        add_scale(panels[1], octa.shape, shown.px_per_mm * octa.shape[1] / width)
    figure.supxlabel(caption(shown), fontsize=7)
    with atomic_file(path) as part:
        figure.savefig(part, format="png", metadata={VERDICT: shown.verdict} | shown.origin.texts())


def caption(shown: Shown) -> str:
    """The lines below a figure."""
    size = f"{shown.fov.shape[1]} x {shown.fov.shape[0]} px"
    scale = "scale unknown"
    if shown.px_per_mm is not None:
        scale = f"{shown.px_per_mm:.0f} px/mm" + (" assumed" if shown.is_assumed else "")
    how = ", ".join(filter(None, (size, scale, shown.passes)))
    facts = f"{drawable(shown.name)}: {how}; vessel density {shown.density:.3f}; {shown.verdict}"
    return f"{facts}\nWeights: {shown.weights}. Capillaries are invented; not for diagnosis."


def drawable(name: str) -> str:
    """A name that matplotlib can draw: not as a formula, and with bytes that are not UTF-8 written out."""
    return one_line(name.encode("utf-8", "backslashreplace").decode()).replace("$", r"\$")


def smaller(image: np.ndarray) -> np.ndarray:
    """Every n-th pixel of an image (height, width) or (height, width, channels), for a figure.

    n is the largest that leaves the longer side at least SHOWN_PX; below 2 * SHOWN_PX it is 1.
    """
    step = max(1, max(image.shape[:2]) // SHOWN_PX)
    return image[::step, ::step]


def add_scale(panel, shape: Sequence[int], px_per_mm: float) -> None:
    """Draw a bar of 1 mm at the lower left of an image of a shape."""
    left, bottom = 0.04 * shape[1], 0.97 * shape[0]
    panel.plot([left, left + px_per_mm], [bottom, bottom], color="white", linewidth=2)
    panel.text(left, bottom - 0.015 * shape[0], "1 mm", color="white", fontsize=6, va="bottom")


def write_sheets(figures: Sequence[Path], folder: Path, origin: Origin) -> list[Path]:
    """Write sheets of some figures in their order, each with its verdict in colour; returns their paths.

    `origin` is that of the sheets, which every PNG of the program tells.

    Raises:
        OSError: one cannot be written.
    """
    sheets = []
    for number, first in enumerate(range(0, len(figures), ON_SHEET), 1):
        some = figures[first : first + ON_SHEET]
        tiles = [framed(path) for path in some]
        rows = [tiles[start : start + SHEET_WIDTH] for start in range(0, len(tiles), SHEET_WIDTH)]
        heights = [max(tile.height for tile in row) for row in rows]
        sheet = Image.new("RGB", (SHEET_WIDTH * SHEET_PX, sum(heights)), "white")
        for row, top in zip(rows, np.cumsum([0, *heights[:-1]]), strict=True):
            for column, tile in enumerate(row):
                sheet.paste(tile, (column * SHEET_PX, int(top)))
        path = folder / SHEET.format(number)
        write_png(np.asarray(sheet), path, origin)
        sheets.append(path)
    return sheets


def framed(path: Path) -> Image.Image:
    """A figure for a sheet: small, in a frame that is green if its photograph is usable, otherwise red."""
    with Image.open(path) as figure:
        usable = figure.text.get(VERDICT) == "usable"
        small = figure.convert("RGB")
    margin = SHEET_PX // 150
    inner = SHEET_PX - 4 * margin
    small = small.resize((inner, max(1, round(small.height * inner / small.width))), Image.Resampling.LANCZOS)
    colour = tuple(int(255 * value) for value in colormaps["RdYlGn"](0.95 if usable else 0.05)[:3])
    tile = Image.new("RGB", (SHEET_PX, small.height + 4 * margin), "white")
    tile.paste(colour, (margin, margin, SHEET_PX - margin, tile.height - margin))
    tile.paste(small, (2 * margin, 2 * margin))
    return tile
