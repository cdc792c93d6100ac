"""Image files: which files of a folder are images, and reading them as 8 bits per channel.

Cameras often store 10, 12 or 14 bits in 16, and few files say so. Then the brightest value of the image tells.
"""

import hashlib
import mmap
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.Image import Resampling
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter, zoom

from basics.command_line import one_line, why
from retina.decoding import (
    ORIENTATION,
    READERS,
    TIFF_STARTS,
    DataError,
    Deep,
    colours_of,
    read_by_pillow,
    read_tiff,
    scaled,
    start_of,
)
from retina.dicom import SUFFIX as DICOM_SUFFIX
from retina.dicom import is_dicom, read_dicom

FUNDUS_CHANNELS = 3
RIM_OF_FIELD = 6  # px: closer to its border, the field fades to black
SAME_SHAPE = 0.01  # largest relative difference of two aspect ratios that rounding explains

# Suffix -> Pillow's name of the format, of images that are read.
FORMATS = {suffix: kind for suffix, kind in Image.registered_extensions().items() if kind in READERS}
FORMATS[DICOM_SUFFIX] = "DICOM"  # by pydicom
# Files and folders of systems, in lower case: thumbnails, recycle bins, snapshots.
LEFTOVERS = {
    *("__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "desktop.ini", "lost+found"),
    *("$recycle.bin", "recycler", "recycled", "system volume information", "found.000"),
    *("@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "~snapshot"),  # network storage
}
SMOOTH = "smooth"  # a kernel of `resized`
VISIBLE = 128  # least alpha of a pixel that is not transparent
SIGNIFICANT_BITS = (8, 10, 12, 14, 16)  # of images that are stored with 16 bits


# --- folders ---------------------------------------------------------------------------------------------------------


def visible_below(folder: Path) -> list[Path]:
    """Files and folders below a folder, sorted, without leftovers, see `is_leftover`.

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
    """Whether a file or folder of this name is hidden, or one of LEFTOVERS in any case."""
    return name.startswith(".") or name.lower() in LEFTOVERS


def left_out(paths: Iterable[Path]) -> str:
    """The number of files whose suffix is none of FORMATS, such as "2 .xyz, 1 .heic, 3 .txt, 1 without suffix".

    The suffix may have any case, and a number is none; folders do not count. Empty if there are none.
    """
    suffixes = (path.suffix.lower() for path in paths if not path.is_dir())
    count = Counter("" if suffix[1:].isdecimal() else suffix for suffix in suffixes if suffix not in FORMATS)
    parts = [f"{number} {suffix}" for suffix, number in sorted(count.items()) if suffix]
    parts += [f"{count['']} without suffix"] if "" in count else []
    return one_line(", ".join(parts))


# --- files -> images -------------------------------------------------------------------------------------------------


def read_image(path: Path) -> np.ndarray:
    """Read an image with up to 16 bits per channel: grey, RGB, CMYK or palette, with or without alpha.

    It is turned upright as its EXIF orientation says. If it has 16 bits, and does not say how many of them it uses,
    these are the least of SIGNIFICANT_BITS that hold its brightest value.

    Returns:
        (height, width, 4), uint8: red, green, blue, alpha (255 where the file has none).

    Raises:
        DataError: the file cannot be read, contains several images, or its pixel format is not supported.
    """
    try:
        start = start_of(path)
        read = read_dicom if is_dicom(start) else read_tiff if start.startswith(TIFF_STARTS) else read_by_pillow
        image = read(path)
        return np.array((upright(image) if isinstance(image, Deep) else image).convert("RGBA"))
    except DataError:
        raise
    except Exception as error:  # libraries raise any for a damaged file
        reason = why(error) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "not an image, damaged, or of a rare kind; save it as PNG"
        raise DataError(one_line(f"{path}: cannot be read as an image ({reason})")) from error


def upright(deep: Deep) -> Image.Image:
    """A deep image with 8 bits, turned upright."""
    brightest = int(colours_of(deep.levels).max())  # alpha may use more bits than the colours
    levels = scaled(deep.levels, deep.top or next(2**bits - 1 for bits in SIGNIFICANT_BITS if brightest < 2**bits))
    if deep.white_is_zero:
        colours_of(levels)[:] = 255 - colours_of(levels)
    image = Image.fromarray(levels.squeeze(2) if levels.shape[2] == 1 else levels)
    image.getexif()[ORIENTATION] = deep.orientation
    return ImageOps.exif_transpose(image)


def read_fundus(path: Path) -> np.ndarray:
    """Read a fundus photograph: (height, width, 3), uint8; transparent pixels are black, as outside the field.

    Raises:
        DataError: as `read_image`, or it is entirely transparent.
    """
    image = read_image(path)
    transparent = image[..., 3] < VISIBLE
    if transparent.all():
        raise DataError(f"{path}: is entirely transparent; save it without alpha, or remove it")
    image[transparent] = 0
    return image[..., :3]


def read_octa(path: Path, channels: int) -> np.ndarray:
    """Read an OCT-A image: (height, width, channels), uint8. Raises DataError as `read_image`.

    One channel is the mean of red, green and blue, which are nearly equal; four are RGBA as in the file.
    """
    image = read_image(path)
    return octa_to_grey(image).round().astype(np.uint8)[..., np.newaxis] if channels == 1 else image


def octa_to_grey(octa: np.ndarray) -> np.ndarray:
    """One plane (height, width) of an OCT-A image (height, width, 1 or 4): the mean of its colours, without alpha."""
    return octa[..., :3].mean(axis=-1)


# --- arrays ----------------------------------------------------------------------------------------------------------


def continue_outside(image: np.ndarray, fov: np.ndarray) -> np.ndarray:
    """Continue an image beyond the border of the field of view by mirroring it there.

    A network then sees no edge at the camera's border, and draws none.

    Args:
        image: (height, width, channels).
        fov: (height, width), bool: inside the field.

    Returns:
        (height, width, channels), dtype as given; unchanged inside the field, except in its fading rim. Where the
        mirrored pixel would lie outside the image, the image's border is repeated; where it would lie outside the
        field, the field's nearest pixel.
    """
    inner = binary_erosion(fov, iterations=RIM_OF_FIELD, border_value=1)
    if inner.all() or not inner.any():
        return image
    here = np.indices(fov.shape, dtype=np.int32)  # (2, height, width)
    nearest = distance_transform_edt(~inner, return_distances=False, return_indices=True)  # (2, height, width)
    last = np.reshape(fov.shape, (2, 1, 1)) - 1
    mirrored = np.clip(2 * nearest - here, 0, last)
    return image[tuple(np.where(inner[tuple(mirrored)], mirrored, nearest))]


def black_outside(image: np.ndarray, fov: np.ndarray) -> np.ndarray:
    """A copy of an image (height, width) or (height, width, channels), black outside the field; alpha is kept."""
    image = image.copy()
    (image if image.ndim == 2 else image[..., :3])[~fov] = 0
    return image


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Float on [0, 1] -> uint8 on [0, 255], rounded; values outside [0, 1] are clipped."""
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)


def same_aspect_ratio(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two sizes, height and width first, differ in scale only, or by rounding."""
    height, width = np.divide(one[:2], other[:2])
    return abs(height / width - 1) <= SAME_SHAPE


def resized(image: np.ndarray, size: Sequence[int], kernel: Resampling | str | None = None) -> np.ndarray:
    """An image or mask resized to a height and width in px; the array itself if it already has that size.

    Args:
        image: (height, width) or (height, width, channels), uint8, float or bool. Float becomes float32; a mask is True
            where more than half of a pixel is.
        size: height and width.
        kernel: one of Pillow's, all of which but NEAREST average where they shrink. By default LANCZOS, or BICUBIC
            where the height grows, for uint8, and BILINEAR, which keeps within the range, for float and bool. SMOOTH: a
            Gaussian before linear interpolation, for which the registration is tuned; for (height, width) only.
    """
    size = tuple(size)
    if image.dtype not in (np.uint8, bool):
        image = image.astype(np.float32, copy=False)
    if image.shape[:2] == size:
        return image
    if image.dtype == bool:
        return resized(image.astype(np.float32), size, kernel) > 0.5
    if kernel == SMOOTH:
        factors = np.divide(image.shape, size)
        smoothed = gaussian_filter(image, np.maximum(0, (factors - 1) / 2), mode="mirror")
        return zoom(smoothed, 1 / factors, order=1, mode="mirror", grid_mode=True)
    if kernel is None:
        exact = Resampling.LANCZOS if size[0] < image.shape[0] else Resampling.BICUBIC
        kernel = exact if image.dtype == np.uint8 else Resampling.BILINEAR
    planes = [image] if image.ndim == 2 else np.moveaxis(image, -1, 0)
    planes = [Image.fromarray(plane).resize(size[::-1], kernel) for plane in planes]
    return np.asarray(planes[0]) if image.ndim == 2 else np.dstack(planes)


def photo_digest(fundus: np.ndarray) -> str:
    """A fingerprint of a photograph (height, width, 3), uint8, whatever its file is called: 16 hexadecimal digits."""
    content = hashlib.blake2b(repr(fundus.shape).encode(), digest_size=8)
    content.update(np.ascontiguousarray(fundus))
    return content.hexdigest()


def in_own_pages(image: np.ndarray) -> np.ndarray:
    """A copy outside the heap: in the heap, which temporary arrays fragment, images need half as much memory again."""
    copy = np.ndarray(image.shape, image.dtype, mmap.mmap(-1, image.nbytes))
    copy[...] = image
    return copy
