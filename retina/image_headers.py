"""What the header of an image file says, and how its pixels are decoded.

Pillow reads images of 8 bits. Of deeper ones it drops bits, or mixes planes up: PNG, JPEG 2000 and PNM of more than 8
bits, and most TIFF, are therefore decoded by `imagecodecs`, `tifffile` and numpy.
"""

import logging
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from basics.command_line import UserError

if TYPE_CHECKING:
    from tifffile import TiffPage

# Formats that Pillow opens, but that are no pictures.
NO_PICTURES = frozenset(
    (
        *("CUR", "ICNS", "ICO", "GBR", "BLP", "DDS", "FTEX", "XVTHUMB"),  # icons, brushes, textures
        *("FLI", "MPEG", "IPTC"),  # videos, metadata
        *("EPS", "WMF"),  # drawings, for which it needs another program
        *("BUFR", "FITS", "GRIB", "HDF5", "MCIDAS", "IMT", "SPIDER"),  # measurements, most for other libraries
        "PCD",  # Photo CD, of which it reads a reduced copy
    )
)
Image.init()  # so that Pillow knows all its formats
READERS = tuple(kind for kind in Image.ID if kind not in NO_PICTURES)  # in Pillow's order
MAX_PIXELS = 50_000_000  # of an image: twice what fundus cameras have; more would take gigabytes
BRIGHTEST = 2**16 - 1  # value of 16 bits
MODES = ("L", "LA", "RGB", "RGBA")  # Pillow's names, by the number of channels
EIGHT_BIT_MODES = ("1", *MODES, "P", "PA", "RGBX", "CMYK", "YCbCr")
FORMATS_WITH_PREVIEWS = ("MPO", "PSD")  # a JPEG with previews, layers: the first image is the complete one
OTHER_FORMAT = "save it with 8 or 16 bits per channel"

START = 132  # bytes from which a file's kind is known
DICOM_MARK = slice(128, START)
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_DEPTH = slice(24, 25)  # in the first chunk
JPEG_2000_SIZE = b"\xff\x4f\xff\x51"  # start of the code stream
JPEG_2000_DEPTH = 42  # bytes from there to the bits of the first channel, less one
PNM_SPACE = rb"(?:\s|#[^\n]*\n)+"
PNM_HEADER = re.compile(rb"P([56])" + 3 * (PNM_SPACE + rb"(\d+)") + rb"\s")
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # little and big endian; with offsets of 32 and 64 bits
TIFF_COLOURS = {0: 1, 1: 1, 2: 3, 5: 4}  # PhotometricInterpretation -> colours: WhiteIsZero, BlackIsZero, RGB, CMYK
WHITE_IS_ZERO = 0
TIFF_JPEG = (6, 7)  # Compression
SEPARATE_PLANES = 2  # PlanarConfiguration
PREMULTIPLIED, ALPHA = 1, 2  # ExtraSamples
REDUCED, MASK = 1, 4  # bits of NewSubfileType
ORIENTATION, MAX_SAMPLE_VALUE, SUB_PAGES = 274, 281, 330  # numbers of TIFF's tags; the first is EXIF's too


class DataError(UserError):
    """Data that cannot be used."""


@dataclass(frozen=True)
class Stored:
    """An image whose header has been read, and whose pixels Pillow would not read right."""

    decode: Callable[[], np.ndarray]  # -> (height, width, channels), uint8 or uint16, values as in the file
    top: int | None  # the brightest possible value, as the file says; None: it has 16 bits and does not say
    mode: str | None = None  # Pillow's name of the channels; None: grey or RGB, perhaps with alpha
    white_is_zero: bool = False
    orientation: int = 1  # as in EXIF


def read_header(path: Path) -> Stored | int:
    """Read an image's header; for images that Pillow reads right, the number of the frame that it should read.

    Raises:
        DataError: see `read_image`.
        Exception: the file is damaged.
    """
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: not a file (a folder, pipe or device)")  # reading a pipe would block
    with path.open("rb") as file:
        start = file.read(START)
    if start[DICOM_MARK] == b"DICM":
        raise DataError(f"{path}: is a DICOM file, which is not supported; save it as PNG or TIFF")
    if start[4:8] == b"ftyp" and any(brand in start for brand in HEIC_BRANDS):
        raise DataError(f"{path}: is a HEIC file, which is not supported; save it as PNG, TIFF or JPEG")
    if start.startswith(TIFF_STARTS):
        return tiff_header(path)
    deep = next((deep for begin, deep in DEEP_FORMATS.items() if start.startswith(begin)), None)
    if deep is None or (deep is deep_png and start[PNG_DEPTH] <= b"\x08"):
        return 0
    with opened(path):
        return deep(path.read_bytes()) or 0


@contextmanager
def opened(path: Path, frame: int = 0) -> Iterator[Image.Image]:
    """Open an image by Pillow; only its header is read. A TIFF's frame is one that `tiff_header` chose.

    Raises:
        DataError: it is too large, or contains several images.
    """
    with Image.open(path, formats=READERS) as file:
        if file.format == "TIFF":
            file.seek(frame)
        elif file.format not in FORMATS_WITH_PREVIEWS:
            check_number(path, getattr(file, "n_frames", 1))
        check_size(path, file.width, file.height)
        yield file


def image_by_pillow(path: Path, frame: int) -> Image.Image:
    """Read an image of up to 8 bits, upright. Raises DataError for another pixel format, and as `opened`."""
    with opened(path, frame) as file:
        if file.mode not in EIGHT_BIT_MODES:
            raise DataError(f"{path}: pixel format {file.mode}; {OTHER_FORMAT}")
        return ImageOps.exif_transpose(file)


def check_size(path: Path, width: int, height: int) -> None:
    """Raises DataError for an image of more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise DataError(f"{path}: {width} x {height} px; at most {MAX_PIXELS // 10**6} megapixels")


def check_number(path: Path, images: int) -> None:
    """Raises DataError for a file with several images."""
    if images > 1:
        raise DataError(f"{path}: contains {images} images; save the right one as a separate file")


# --- PNG, JPEG 2000 and PNM: content of a file -> its header; None: Pillow reads it right ----------------------------


def deep_png(content: bytes) -> Stored:
    """A PNG of 16 bits."""
    chunks = dict(png_chunks(content))
    colours = chunks.get(b"sBIT", b"")
    bits = max(colours[: 1 if len(colours) <= 2 else 3], default=None)  # the last of two or four is alpha's
    exif = Image.Exif()
    exif.load(chunks.get(b"eXIf", b""))

    def decode() -> np.ndarray:
        import imagecodecs  # here, as all decoders: most images need none of them

        levels = with_channels(imagecodecs.png_decode(content))
        return levels if bits is None else filled_up(levels, bits)

    return Stored(decode, None if bits is None else BRIGHTEST, orientation=exif.get(ORIENTATION, 1))


def png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kind and the content of each chunk of a PNG."""
    place = len(PNG_START)
    while place + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        yield kind, content[place + 8 : place + 8 + length]
        place += length + 12


def filled_up(levels: np.ndarray, bits: int) -> np.ndarray:
    """Values of a PNG (height, width, channels) with significant bits, stretched to 16 where its program did not.

    The standard asks for it, whatever sBIT says: W3C, Portable Network Graphics, "Sample depth scaling".
    """
    colours = colours_of(levels)
    for planes in (levels[..., :colours], levels[..., colours:]):
        # Stretched values below 2^bits have only zeros in the lower bits; rounding may make the last a one.
        if planes.max(initial=0) < 2**bits and (planes % 2 ** (16 - bits)).max(initial=0) > 1:
            planes[...] = scaled(planes, 2**bits - 1, BRIGHTEST)
    return levels


def deep_jpeg_2000(content: bytes) -> Stored | None:
    """A JPEG 2000 of 9 to 16 bits."""
    depth = content[content.index(JPEG_2000_SIZE) + JPEG_2000_DEPTH] + 1
    if not 8 < depth <= 16:
        return None

    def decode() -> np.ndarray:
        import imagecodecs

        return with_channels(imagecodecs.jpeg2k_decode(content))

    return Stored(decode, None if depth == 16 else 2**depth - 1)


def deep_pnm(content: bytes) -> Stored | None:
    """A binary PGM or PPM of more than 8 bits."""
    header = PNM_HEADER.match(content)
    kind, width, height, top = map(int, header.groups()) if header else (0, 0, 0, 0)
    if top <= 255:
        return None

    def decode() -> np.ndarray:
        shape = height, width, 1 if kind == 5 else 3
        return np.frombuffer(content, ">u2", height * width * shape[2], header.end()).astype(np.uint16).reshape(shape)

    return Stored(decode, None if top == BRIGHTEST else top)


DEEP_FORMATS = {
    PNG_START: deep_png,
    b"\0\0\0\x0cjP  ": deep_jpeg_2000,
    JPEG_2000_SIZE: deep_jpeg_2000,
    b"P5": deep_pnm,
    b"P6": deep_pnm,
}


# --- TIFF ------------------------------------------------------------------------------------------------------------


def tiff_header(path: Path) -> Stored | int:
    """Read the header of a TIFF, see `read_header`: grey, RGB and CMYK of 2 to 16 bits, but not JPEG, are `Stored`."""
    import tifffile

    tifffile.logger().setLevel(logging.CRITICAL)  # what matters is raised as an error
    with tifffile.TiffFile(path) as tiff:
        number, page = complete_page(path, tiff.pages)
        check_size(path, page.imagewidth, page.imagelength)
        check_number(path, page.imagedepth)
        bits, colours = page.bitspersample, TIFF_COLOURS.get(page.photometric)
        if bits == 1 or (bits <= 8 and (colours is None or page.compression in TIFF_JPEG)):
            return number
        if page.dtype is None or page.dtype.kind != "u" or bits > 16:
            raise DataError(f"{path}: pixel format {page.dtype or f'of {bits} bits'}; {OTHER_FORMAT}")
        if colours is None:
            kind = getattr(page.photometric, "name", page.photometric)
            raise DataError(f"{path}: colours of the kind {kind} with {bits} bits; save it as grey or RGB")
        channels, mode = tiff_channels(path, page, colours)
        size, empty = tiff.filehandle.size, min(page.databytecounts, default=0) == 0
        if empty or max(page.dataoffsets) >= size:  # tifffile would fill them with zeros
            raise DataError(f"{path}: cannot be read as an image (parts of it are missing)")
        says = max(np.atleast_1d(page.tags.valueof(MAX_SAMPLE_VALUE, 0)))

    def decode() -> np.ndarray:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[number]
            levels = page.asarray(maxworkers=1)  # several images are read at once
        if page.samplesperpixel > 1 and page.planarconfig == SEPARATE_PLANES:
            levels = np.moveaxis(levels, 0, -1)
        return with_channels(levels)[..., channels]

    return Stored(
        decode,
        tiff_top(bits, int(says)),
        mode,
        page.photometric == WHITE_IS_ZERO,
        page.tags.valueof(ORIENTATION, 1),
    )


def complete_page(path: Path, pages: "Sequence[TiffPage]") -> tuple[int, "TiffPage"]:
    """The only page of a TIFF that is no reduced copy or mask, and its number. Raises DataError if there is none."""
    every = [(number, pages[number]) for number in range(len(pages))]  # iteration would not end at a circle
    found = [(number, page) for number, page in every if not page.subfiletype & (REDUCED | MASK)]
    if not found and len(every) == 1 and SUB_PAGES not in every[0][1].tags:
        found = every  # its program only calls it so
    if not found:
        raise DataError(f"{path}: contains only reduced copies; save the complete image as PNG or TIFF")
    check_number(path, len(found))
    return found[0]


def tiff_channels(path: Path, page: "TiffPage", colours: int) -> tuple[list[int], str | None]:
    """The channels of a TIFF to read: colours and alpha; and their `mode` in Stored. Raises DataError if unknown."""
    samples, extra = page.samplesperpixel, list(page.extrasamples)
    if not extra and samples == colours + 1:
        extra = [ALPHA]  # as other programs assume
    alpha = [colours + place for place, kind in enumerate(extra) if kind in (PREMULTIPLIED, ALPHA)][:1]
    if colours == 1 and samples > 2 and not alpha:
        raise DataError(f"{path}: {samples} channels, and it does not say which are colours; save it as grey or RGB")
    if colours == 4:
        return [0, 1, 2, 3], "CMYK"
    if alpha and extra[alpha[0] - colours] == PREMULTIPLIED:
        return [*(range(3) if colours == 3 else (0, 0, 0)), *alpha], "RGBa"
    return [*range(colours), *alpha], None


def tiff_top(bits: int, says: int) -> int | None:
    """`top` in Stored of a TIFF with so many bits, whose MaxSampleValue is as given (0: none).

    Some programs enter there the brightest value that occurs, which says little: only 2^n - 1 counts.
    """
    if bits < 16:
        return 2**bits - 1
    return says if 255 <= says <= BRIGHTEST and says & (says + 1) == 0 else None


# --- values ----------------------------------------------------------------------------------------------------------


def with_channels(levels: np.ndarray) -> np.ndarray:
    """(height, width) or (height, width, channels) -> (height, width, channels)."""
    return levels.reshape(*levels.shape[:2], -1)


def colours_of(levels: np.ndarray, mode: str | None = None) -> int:
    """The number of colours, without alpha, in (height, width, channels) with a `mode` of Stored."""
    return len((mode or MODES[levels.shape[2] - 1]).rstrip("Aa"))


def scaled(levels: np.ndarray, top: int, to: int = 255) -> np.ndarray:
    """Values on [0, top] -> [0, to], uint8 up to 255, else uint16; those above `top` are clipped."""
    values = np.round(np.minimum(np.arange(BRIGHTEST + 1), top) / top * to)
    return values.astype(np.uint8 if to <= 255 else np.uint16)[levels]
