"""Decoding of image files.

Pillow reads images of 8 bits. Of PNG and TIFF that use 10, 12 or 14 of 16 bits it keeps the wrong ones, and it mixes up
the planes of a TIFF: these are decoded by `imagecodecs` and `tifffile`.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from basics.command_line import UserError

# Pillow's names of the formats that are read, in the order in which it tries them.
READERS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "GIF", "WEBP", "AVIF", "JPEG2000", "PPM", "PSD", "QOI", "PCX", "TGA")
WITH_PREVIEWS = ("MPO", "PSD")  # a JPEG with previews, layers: the first image is the complete one
EIGHT_BIT_MODES = ("1", "L", "LA", "RGB", "RGBA", "P", "PA", "RGBX", "CMYK", "YCbCr")
MAX_PIXELS = 50_000_000  # of an image: twice what fundus cameras have; more would take gigabytes
ADVICE = "save it as PNG or TIFF with 8 or 16 bits per channel"
PNG_BITS = 24  # place of the byte that tells how many bits a channel has
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # little and big endian; with offsets of 32 and 64 bits
TIFF_COLOURS = {0: 1, 1: 1, 2: 3}  # PhotometricInterpretation -> colours: WhiteIsZero, BlackIsZero, RGB
WHITE_IS_ZERO, SEPARATE_PLANES = 0, 2  # PhotometricInterpretation, PlanarConfiguration
PREMULTIPLIED, ALPHA = 1, 2  # ExtraSamples
REDUCED, MASK = 1, 4  # bits of NewSubfileType
MAX_SAMPLE_VALUE = 281  # number of TIFF's tag
ORIENTATION = 274  # number of the tag in TIFF and EXIF


class DataError(UserError):
    """Data that cannot be used."""


@dataclass(frozen=True)
class Deep:
    """An image that Pillow would read wrong: of more than 8 bits, or in planes."""

    levels: np.ndarray  # (height, width, 1 to 4), uint8 or uint16: grey or RGB, perhaps with alpha
    top: int | None  # the brightest possible value; None: it has 16 bits, and does not say how many it uses
    white_is_zero: bool = False
    orientation: int = 1  # as in EXIF


def start_of(path: Path) -> bytes:
    """The first 132 bytes of a file. Raises DataError if it is none, or OSError."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: not a file (a folder, pipe or device)")  # reading a pipe would block
    with path.open("rb") as file:
        return file.read(132)


def check(path: Path, width: int, height: int, images: int) -> None:
    """Raises DataError for an image of more than MAX_PIXELS, or a file with several images."""
    if images > 1:
        raise DataError(f"{path}: contains {images} images; save the right one as a separate file")
    if width * height > MAX_PIXELS:
        raise DataError(f"{path}: {width} x {height} px; at most {MAX_PIXELS // 10**6} megapixels")


def read_by_pillow(path: Path, frame: int = 0) -> Deep | Image.Image:
    """Read an image of up to 8 bits, upright, or a PNG or JPEG 2000 of up to 16.

    Raises:
        DataError: for another pixel format, and as `check`.
        Exception: the file is damaged.
    """
    with Image.open(path, formats=READERS) as file:
        several = file.format not in ("TIFF", *WITH_PREVIEWS)  # the frame of a TIFF was chosen by `read_tiff`
        file.seek(frame)
        check(path, file.width, file.height, getattr(file, "n_frames", 1) if several else 1)
        if file.format == "PNG" and start_of(path)[PNG_BITS] > 8:
            import imagecodecs  # here, as tifffile: most images need neither

            levels = imagecodecs.png_decode(path.read_bytes())
            return Deep(levels.reshape(*levels.shape[:2], -1), None, orientation=file.getexif().get(ORIENTATION, 1))
        if file.format == "JPEG2000":
            import imagecodecs

            levels = imagecodecs.jpeg2k_decode(path.read_bytes())
            if levels.dtype != np.uint8:
                return Deep(levels.astype(np.uint16).reshape(*levels.shape[:2], -1), None)
        if file.mode not in EIGHT_BIT_MODES:
            raise DataError(f"{path}: {file.format} of a kind ({file.mode}) that is not read; {ADVICE}")
        return ImageOps.exif_transpose(file)


def read_tiff(path: Path) -> Deep | Image.Image:
    """Read a TIFF; by Pillow if that reads it right. Raises as `read_by_pillow`."""
    import tifffile

    tifffile.logger().setLevel(logging.CRITICAL)  # what matters is raised as an error
    with tifffile.TiffFile(path) as tiff:
        numbers = range(len(tiff.pages))  # iteration over pages would not end at a circle
        complete = [number for number in numbers if not tiff.pages[number].subfiletype & (REDUCED | MASK)]
        if not complete:
            raise DataError(f"{path}: contains only reduced copies; save the complete image as PNG or TIFF")
        page = tiff.pages[number := complete[0]]
        check(path, page.imagewidth, page.imagelength, page.imagedepth * len(complete))
        bits, samples = page.bitspersample, page.samplesperpixel
        if page.dtype is None or page.dtype.kind not in "ub" or bits > 16:
            raise DataError(f"{path}: pixel format {page.dtype or f'of {bits} bits'}; {ADVICE}")
        if min(page.databytecounts, default=0) == 0 or max(page.dataoffsets) >= tiff.filehandle.size:
            raise DataError(f"{path}: cannot be read as an image (parts of it are missing)")  # they would become zeros
        in_planes = samples > 1 and page.planarconfig == SEPARATE_PLANES
        if bits <= 8 and not in_planes:
            return read_by_pillow(path, number)
        colours = TIFF_COLOURS.get(page.photometric, 0)
        extra = list(page.extrasamples) or [ALPHA] * (samples == colours + 1)  # as other programs assume
        if not colours or PREMULTIPLIED in extra or (colours == 1 and samples > 2 and ALPHA not in extra):
            kind = f"{getattr(page.photometric, 'name', page.photometric)} with {samples} channels of {bits} bits"
            raise DataError(f"{path}: colours of the kind {kind}; save it as grey or RGB, without alpha")
        channels = [*range(colours), *([colours + extra.index(ALPHA)] if ALPHA in extra else [])]
        says = int(np.max(page.tags.valueof(MAX_SAMPLE_VALUE, 0)))
        top = 2**bits - 1 if bits < 16 else says if says >= 255 and not says & (says + 1) else None
        levels = page.asarray(maxworkers=1)  # several images are read at once
        levels = np.moveaxis(levels, 0, -1) if in_planes else levels
        levels = levels.reshape(*levels.shape[:2], -1)[..., channels]
        return Deep(levels, top, page.photometric == WHITE_IS_ZERO, page.tags.valueof(ORIENTATION, 1))


def colours_of(levels: np.ndarray) -> np.ndarray:
    """The channels (height, width, 1 or 3) of (height, width, 1 to 4) without alpha."""
    return levels[..., : 1 if levels.shape[2] <= 2 else 3]


def scaled(levels: np.ndarray, top: int) -> np.ndarray:
    """Values of up to 16 bits on [0, top] -> [0, 255], uint8; those above `top` are clipped."""
    return np.round(np.minimum(np.arange(2**16), top) / top * 255).astype(np.uint8)[levels]
