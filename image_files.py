"""Image files: which files of a folder are images, and reading them as 8-bit arrays."""

import os
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pix_command import UserError, why

MAX_PIXELS = 50_000_000  # of an image: twice what fundus cameras have; more would take gigabytes
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # Pillow's names
TWELVE_BITS = 2**12 - 1  # brightest grey level
SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP"}  # of images


class DataError(UserError):
    """Data that cannot be used."""


# --- folders ---------------------------------------------------------------------------------------------------------


def visible_below(folder: Path) -> list[Path]:
    """Files and folders below a folder, sorted, without the leftovers of a Mac or an editor.

    Follows links to folders, except those to a folder that contains the link: they would lead in a circle.

    Raises:
        OSError: a folder cannot be read; `Path.rglob` would skip it silently.
    """

    def refuse(error: OSError) -> None:
        raise error

    found = []
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        above = {path.resolve() for path in (Path(place), *Path(place).absolute().parents)}
        folders[:] = [name for name in folders if not is_leftover(name) and Path(place, name).resolve() not in above]
        found += [Path(place, name) for name in (*folders, *files) if not is_leftover(name)]
    return sorted(found)


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is a leftover of a Mac or an editor."""
    return name.startswith(".") or name == "__MACOSX"


# --- files -> images -------------------------------------------------------------------------------------------------


def read_image(path: Path) -> np.ndarray:
    """Read PNG, JPEG, TIFF or BMP of 8 or 16 bits: grey, RGB, RGBA, CMYK or palette.

    Returns:
        (height, width, 4), uint8: red, green, blue, alpha (255 where the file has none).

    Raises:
        DataError: the file cannot be read, or its pixel format is not supported.
    """
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: not a file (a folder, pipe or device)")  # reading a pipe would block
    try:
        with Image.open(path) as file:
            if file.width * file.height > MAX_PIXELS:
                raise DataError(f"{path}: {file.width} x {file.height} px; at most {MAX_PIXELS // 10**6} megapixels")
            if file.format in ("PNG", "TIFF") and file.n_frames > 1:  # in a JPEG, the others are previews
                raise DataError(f"{path}: contains {file.n_frames} images; save the right one as a separate file")
            image = ImageOps.exif_transpose(file)
            if image.mode in SIXTEEN_BIT_MODES:
                image = Image.fromarray(from_sixteen_bits(np.asarray(image).astype(np.uint16)))
            elif image.mode == "I" and file.format == "PNG":  # how older Pillow versions return a grey PNG of 16 bits
                image = Image.fromarray(from_sixteen_bits(np.asarray(image)))
            elif image.mode not in EIGHT_BIT_MODES:
                raise DataError(f"{path}: pixel format {image.mode!r}; save it with 8 or 16 bits per channel")
            return np.array(image.convert("RGBA"))
    except DataError:
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
        TypeError,
        OverflowError,
        LookupError,
        struct.error,
        MemoryError,
        Image.DecompressionBombError,
    ) as error:  # Pillow's errors for damaged files
        reason = "not an image, or damaged" if isinstance(error, Image.UnidentifiedImageError) else why(error)
        raise DataError(f"{path}: cannot be read as an image ({reason})") from error


def from_sixteen_bits(grey: np.ndarray) -> np.ndarray:
    """Grey levels on [0, 65535], or on [0, 4095] from 12-bit cameras -> uint8 on [0, 255]."""
    return np.round(grey / (TWELVE_BITS if grey.max() <= TWELVE_BITS else 2**16 - 1) * 255).astype(np.uint8)


def read_fundus(path: Path) -> np.ndarray:
    """Read a fundus photograph: (height, width, 3), uint8. Raises DataError as `read_image`."""
    return read_image(path)[..., :3]


def read_octa(path: Path, channels: int) -> np.ndarray:
    """Read an OCT-A image: (height, width, channels), uint8. Raises DataError as `read_image`.

    One channel is the mean of red, green and blue, which are nearly equal; four are RGBA as in the file.
    """
    image = read_image(path)
    return octa_to_grey(image).round().astype(np.uint8)[..., np.newaxis] if channels == 1 else image


def octa_to_grey(octa: np.ndarray) -> np.ndarray:
    """One plane (height, width) of an OCT-A image (height, width, 1 or 4): the mean of its colours, without alpha."""
    return octa[..., :3].mean(axis=-1)
