"""DICOM: photographs and OCT-A, with the scale, the field of view and the eye that they state.

Of the patient nothing is read.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from basics.command_line import SCALES
from retina.decoding import ADVICE, DataError, Deep, check

SUFFIX = ".dcm"
KINDS = (  # of files, by the start of their names in pydicom
    "Ophthalmic Photography",
    "Ophthalmic Optical Coherence Tomography En Face",
    "Secondary Capture",
    "Multi-frame Grayscale Byte Secondary",
    "Multi-frame Grayscale Word Secondary",
    "Multi-frame True Color Secondary",
    "VL Photographic",
)
COLOURS = ("MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
SPACINGS = "PixelSpacing", "NominalScannedPixelSpacing"  # mm between rows, and between columns
SQUARE = 0.01  # largest relative difference of the spacings of square pixels
PIXELS = "BitsStored", "PixelRepresentation", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns"


@dataclass(frozen=True)
class Facts:
    """What a DICOM file states; None or "": nothing. px_per_mm, field_degrees, eye (OD, OS), width_mm."""

    px_per_mm: float | None = None
    field_degrees: float | None = None
    eye: str = ""
    width_mm: float | None = None


def is_dicom(start: bytes) -> bool:
    """Whether a file that starts so (see `start_of`) says that it is DICOM."""
    return start[128:] == b"DICM"


def read_dicom(path: Path) -> Deep:
    """Read a DICOM image.

    Raises:
        DataError: it is no photograph or OCT-A, or has several frames, or pixels of another kind.
        Exception: the file is damaged, or compressed in a way that no installed library reads.
    """
    import pydicom  # here, because most images do not need it

    header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", *PIXELS])
    kind, colours = header.SOPClassUID.name, header.get("PhotometricInterpretation", "none")
    if not kind.startswith(KINDS):
        raise DataError(f"{path}: is a DICOM file of the kind {kind}, no photograph; remove it")
    check(path, header.Columns, header.Rows, int(header.get("NumberOfFrames") or 1))
    if colours not in COLOURS or header.BitsStored > 16 or header.PixelRepresentation:
        signed = "signed " if header.PixelRepresentation else ""
        raise DataError(f"{path}: {signed}pixels of {header.BitsStored} bits, colours {colours}; {ADVICE}")
    levels = pydicom.pixels.pixel_array(path)
    return Deep(levels.reshape(*levels.shape[:2], -1), 2**header.BitsStored - 1, colours == "MONOCHROME1")


def facts_of(path: Path) -> Facts:
    """What a DICOM file states besides its pixels; nothing for another file, or one that cannot be read."""
    tags = (*SPACINGS, "HorizontalFieldOfView", "ImageLaterality", "Laterality", "Columns")
    try:
        import pydicom

        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(tags))
        spacing = next((list(map(float, header.get(tag))) for tag in SPACINGS if header.get(tag)), [])
        degrees = float(header.get("HorizontalFieldOfView") or math.nan)
        side = header.get("ImageLaterality") or header.get("Laterality") or ""
        columns = header.get("Columns") or 0
    except Exception:  # pydicom raises any for a damaged file, which is reported when its pixels are read
        return Facts()
    scale = None
    if len(spacing) == 2 and min(spacing) > 0 and abs(spacing[0] / spacing[1] - 1) < SQUARE:
        scale = 1 / spacing[1]
    (least, most), (narrowest, widest) = SCALES["px_per_mm"], SCALES["field_degrees"]  # that are believed
    scale = scale if scale and least <= scale <= most else None
    degrees = degrees if narrowest <= degrees <= widest else None
    return Facts(scale, degrees, {"R": "OD", "L": "OS"}.get(side, ""), scale and columns / scale)
