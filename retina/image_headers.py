"""What the header of an image file says, and how its pixels are decoded.

Pillow reads images of 8 bits. Of deeper ones it drops bits, and it mixes up the planes of a TIFF: such PNG and TIFF are
decoded by `imagecodecs` and `tifffile`. Other formats are refused if they are deeper: cameras do not write them.
"""

import logging
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
BRIGHTEST = 2**16 - 1  # value of 16 bits
ADVICE = "save it as PNG or TIFF with 8 or 16 bits per channel"
PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_2000_SIZE, JPEG_2000_DEPTH = b"\xff\x4f\xff\x51", 38  # start of the code stream; bytes from there to the bits - 1
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

    decode: Callable[[], np.ndarray]  # -> (height, width, 1 to 4), uint8 or uint16: grey or RGB, perhaps with alpha
    top: int | None  # the brightest possible value; None: it has 16 bits, and does not say how many it uses
    white_is_zero: bool = False
    orientation: int = 1  # as in EXIF


def start_of(path: Path) -> bytes:
    """The first 132 bytes of a file. Raises DataError if it is none, or OSError."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: not a file (a folder, pipe or device)")  # reading a pipe would block
    with path.open("rb") as file:
        return file.read(132)


def read_header(path: Path, start: bytes) -> Deep | int:
    """Read an image's header; for images that Pillow reads right, the number of the frame that it should read.

    `start`: see `start_of`.

    Raises:
        DataError: see `read_image`.
        Exception: the file is damaged.
    """
    if start[4:8] == b"ftyp" and (b"hei" in start or b"hev" in start):
        raise DataError(f"{path}: is a HEIC file, which is not supported; save it as PNG, TIFF or JPEG")
    if start.startswith(TIFF_STARTS):
        return tiff_header(path)
    if start.startswith(PNG_START) and start[24] > 8:
        with opened(path):
            return deep_png(path.read_bytes())
    return 0


@contextmanager
def opened(path: Path, frame: int = 0) -> Iterator[Image.Image]:
    """Open an image by Pillow; only its header is read. Raises DataError as `check`."""
    with Image.open(path, formats=READERS) as file:
        several = file.format not in ("TIFF", *WITH_PREVIEWS)  # the frame of a TIFF was chosen by `tiff_header`
        file.seek(frame)
        check(path, file.width, file.height, getattr(file, "n_frames", 1) if several else 1)
        yield file


def check(path: Path, width: int, height: int, images: int) -> None:
    """Raises DataError for an image of more than MAX_PIXELS, or a file with several images."""
    if images > 1:
        raise DataError(f"{path}: contains {images} images; save the right one as a separate file")
    if width * height > MAX_PIXELS:
        raise DataError(f"{path}: {width} x {height} px; at most {MAX_PIXELS // 10**6} megapixels")


def image_by_pillow(path: Path, frame: int) -> Image.Image:
    """Read an image of up to 8 bits, upright. Raises DataError for another pixel format, and as `check`."""
    with opened(path, frame) as file:
        deep = file.mode not in EIGHT_BIT_MODES
        if file.format == "PPM" and file.tile[0].codec_name.startswith("ppm"):  # it has its greatest value
            deep |= file.tile[0].args[1] > 255
        if file.format == "JPEG2000":
            deep |= path.read_bytes().partition(JPEG_2000_SIZE)[2][JPEG_2000_DEPTH] > 7
        if deep:
            raise DataError(
                f"{path}: {file.format} with more than 8 bits, or not in grey or RGB ({file.mode}); {ADVICE}"
            )
        return ImageOps.exif_transpose(file)


def deep_png(content: bytes) -> Deep:
    """The header of a PNG of 16 bits. Its chunk sBIT says how many it uses, and eXIf how it is turned."""
    chunks, place = {b"sBIT": b"", b"eXIf": b""}, len(PNG_START)
    while place + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        if kind in chunks:
            chunks[kind] = content[place + 8 : place + 8 + length]
        place += length + 12
    bits = chunks[b"sBIT"][: 1 if len(chunks[b"sBIT"]) <= 2 else 3]  # of grey or RGB; alpha's are the last
    exif = Image.Exif()
    exif.load(chunks[b"eXIf"])

    def decode() -> np.ndarray:
        import imagecodecs  # here, as tifffile: most images need neither

        levels = imagecodecs.png_decode(content)
        levels = levels.reshape(*levels.shape[:2], -1)
        # Values should fill 16 bits, whatever sBIT says (W3C, Portable Network Graphics, "Sample depth scaling"). Then
        # small ones have only zeros in the lower bits, of which rounding may make the last a one.
        colours, used = colours_of(levels), max(bits, default=16)
        fill = colours.max() >= 2**used or (colours % 2 ** (16 - used)).max() <= 1
        return levels if fill else scaled(levels, 2**used - 1, BRIGHTEST)

    return Deep(decode, BRIGHTEST if bits else None, orientation=exif.get(ORIENTATION, 1))


def tiff_header(path: Path) -> Deep | int:
    """Read the header of a TIFF, see `read_header`."""
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
            return number
        colours = TIFF_COLOURS.get(page.photometric, 0)
        extra = list(page.extrasamples) or [ALPHA] * (samples == colours + 1)  # as other programs assume
        if not colours or PREMULTIPLIED in extra or (colours == 1 and samples > 2 and ALPHA not in extra):
            kind = f"{getattr(page.photometric, 'name', page.photometric)} with {samples} channels of {bits} bits"
            raise DataError(f"{path}: colours of the kind {kind}; save it as grey or RGB, without alpha")
        channels = [*range(colours), *([colours + extra.index(ALPHA)] if ALPHA in extra else [])]
        says = int(np.max(page.tags.valueof(MAX_SAMPLE_VALUE, 0)))
        top = 2**bits - 1 if bits < 16 else says if says >= 255 and not says & (says + 1) else None

    def decode() -> np.ndarray:
        with tifffile.TiffFile(path) as tiff:
            levels = tiff.pages[number].asarray(maxworkers=1)  # several images are read at once
        levels = np.moveaxis(levels, 0, -1) if in_planes else levels
        return levels.reshape(*levels.shape[:2], -1)[..., channels]

    return Deep(decode, top, page.photometric == WHITE_IS_ZERO, page.tags.valueof(ORIENTATION, 1))


def colours_of(levels: np.ndarray) -> np.ndarray:
    """The channels (height, width, 1 or 3) of (height, width, 1 to 4) without alpha."""
    return levels[..., : 1 if levels.shape[2] <= 2 else 3]


def scaled(levels: np.ndarray, top: int, to: int = 255) -> np.ndarray:
    """Values on [0, top] -> [0, to], uint8 up to 255, else uint16; those above `top` are clipped."""
    values = np.round(np.minimum(np.arange(BRIGHTEST + 1), top) / top * to)
    return values.astype(np.uint8 if to <= 255 else np.uint16)[levels]
