"""Pictures for people, all uint8: vessels in colour, outlines over a photograph, panels side by side.

A colour means the same in every picture, and the colour-blind can tell them apart (Okabe and Ito, 2008).
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

from retina.images import resized

MISSED, INVENTED = (213, 94, 0), (86, 180, 233)  # vermillion, sky blue; vessels that are neither are white
VESSELS, OPACITY = (0, 255, 255), 0.55  # cyan: of vessels over a photograph
BORDER = (240, 228, 66)  # yellow: of the field of view
THIN = 1 / 200  # of a picture's longer side: width of a line
TITLE_PX = 20  # height of the letters


def missed_and_invented(truth: np.ndarray, vessels: np.ndarray) -> np.ndarray:
    """Two vessel maps (height, width), bool, in colour: white in both, MISSED or INVENTED in one; (.., 3)."""
    picture = np.zeros((*truth.shape, 3), np.uint8)
    picture[truth & vessels] = 255
    picture[truth & ~vessels] = MISSED
    picture[vessels & ~truth] = INVENTED
    return picture


def with_vessels(fundus: np.ndarray, vessels: np.ndarray) -> np.ndarray:
    """A photograph (height, width, 3), uint8, with vessels (height, width), bool, as a translucent fill."""
    over = (1 - OPACITY) * fundus + OPACITY * np.array(VESSELS)
    return np.where(vessels[..., np.newaxis], np.round(over), fundus).astype(np.uint8)


def with_border(fundus: np.ndarray, fov: np.ndarray) -> np.ndarray:
    """A photograph (height, width, 3), uint8, with the border of its field of view (height, width), bool."""
    inner = binary_erosion(fov, iterations=line_width(fundus), border_value=1)
    return np.where((fov & ~inner)[..., np.newaxis], np.uint8(BORDER), fundus)


def with_outline(fundus: np.ndarray, corners: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """A photograph (height, width, 3), uint8, with a polygon around corners (n, 2), rows and columns in px."""
    picture = Image.fromarray(fundus)
    outline = [(float(column), float(row)) for row, column in corners]
    ImageDraw.Draw(picture).polygon(outline, outline=colour, width=line_width(fundus))
    return np.asarray(picture)


def line_width(image: np.ndarray) -> int:
    """The width of a line in an image (height, width, ...), px."""
    return max(1, round(THIN * max(image.shape[:2])))


def side_by_side(panels: Sequence[np.ndarray], height: int, title: str = "") -> np.ndarray:
    """Panels (height, width) or (height, width, 3), uint8, in a row, each resized to a height in px, below a title."""
    colour = [panel if panel.ndim == 3 else np.dstack([panel] * 3) for panel in panels]
    row = np.hstack([resized(panel, (height, round(height * panel.shape[1] / len(panel)))) for panel in colour])
    if not title:
        return row
    head = Image.new("RGB", (row.shape[1], 2 * TITLE_PX))
    font = ImageFont.load_default(TITLE_PX)
    ImageDraw.Draw(head).text((TITLE_PX // 2, TITLE_PX // 2), title, fill="white", font=font)
    return np.vstack([np.asarray(head), row])
