"""DICOM photographs: their pixels, what they state, and what is refused."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from conftest import round_field
from PIL import Image
from pydicom import uid
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate

from retina.dicom import Facts, facts_of
from retina.images import DataError, octa_to_grey, read_fundus, read_image
from synthesis.photographs import Job, stated

RGB = round_field(64)
GREY = RGB[..., 1]
PATIENT = "Doe^Jane"


def write(path, pixels, colours="RGB", kind=uid.OphthalmicPhotography8BitImageStorage, syntax=None, **tags):
    """Write (height, width) or (height, width, 3), uint8 or uint16, or the bytes of a compressed frame of RGB."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax or uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, uid.generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID, data.PatientName = kind, meta.MediaStorageSOPInstanceUID, PATIENT
    array = RGB if isinstance(pixels, bytes) else pixels
    data.Rows, data.Columns = array.shape[:2]
    data.SamplesPerPixel = 1 if array.ndim == 2 else 3
    data.PhotometricInterpretation, data.PixelRepresentation = colours, 0
    data.BitsAllocated = data.BitsStored = 8 * array.itemsize
    if array.ndim == 3:
        data.PlanarConfiguration = 0
    for name, value in tags.items():
        setattr(data, name, value)
    data.HighBit = data.BitsStored - 1
    data.PixelData = encapsulate([pixels]) if isinstance(pixels, bytes) else pixels.tobytes()
    data["PixelData"].VR = "OB" if array.itemsize == 1 else "OW"
    data.save_as(path, enforce_file_format=True)
    return path


def compressed(tmp_path, kind, **options) -> bytes:
    path = tmp_path / f"frame.{kind}"
    Image.fromarray(RGB).save(path, **options)
    content = path.read_bytes()
    return content[content.index(b"\xff\x4f\xff\x51") :] if kind == "jp2" else content


FORMATS = {
    "RGB": lambda path, _: write(path, RGB),
    "grey": lambda path, _: write(path, GREY, "MONOCHROME2"),
    "inverse grey": lambda path, _: write(path, 255 - GREY, "MONOCHROME1"),
    "12 bits": lambda path, _: write(path, GREY.astype(np.uint16) * 16, "MONOCHROME2", BitsStored=12),
    "JPEG": lambda path, tmp: write(
        path, compressed(tmp, "jpg", quality=95, subsampling=0), "YBR_FULL", syntax=uid.JPEGBaseline8Bit
    ),
    "JPEG 2000": lambda path, tmp: write(path, compressed(tmp, "jp2"), "YBR_RCT", syntax=uid.JPEG2000Lossless),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_pixels_are_those_of_the_photograph(kind, tmp_path):
    image = read_image(FORMATS[kind](tmp_path / "a.dcm", tmp_path)).astype(int)
    expected = RGB if kind in ("RGB", "JPEG", "JPEG 2000") else np.dstack([GREY] * 3)
    different = abs(image[..., :3] - expected)
    assert different.mean() < 2 if kind == "JPEG" else different.max() <= 1


@pytest.mark.parametrize(
    ("tags", "facts"),
    [
        ({}, Facts()),
        ({"PixelSpacing": [0.0125, 0.0125]}, Facts(80.0, width_mm=0.8)),
        ({"NominalScannedPixelSpacing": [0.02, 0.02], "ImageLaterality": "L"}, Facts(50.0, None, "OS", 1.28)),
        ({"HorizontalFieldOfView": 30.0, "Laterality": "R"}, Facts(None, 30.0, "OD")),
        ({"PixelSpacing": [0.02, 0.03]}, Facts()),
        ({"PixelSpacing": [1.0, 1.0], "HorizontalFieldOfView": 1.0}, Facts()),
    ],
)
def test_scale_angle_and_eye_are_those_that_the_file_states(tags, facts, tmp_path):
    assert facts_of(write(tmp_path / "a.dcm", RGB, **tags)) == facts


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, (80.0, None)), ({"field_degrees": 30.0}, (None, 30.0)), ({"px_per_mm": 9.0}, (9.0, None))],
)
def test_given_scale_comes_before_that_of_the_file(given, expected, tmp_path):
    path = write(tmp_path / "a.dcm", RGB, PixelSpacing=[0.0125, 0.0125], HorizontalFieldOfView=50.0)
    job = stated(Job(path, Path("a.png"), **given))
    assert (job.px_per_mm, job.field_degrees) == expected


def test_octa_of_16_bits_is_read_by_the_bits_that_it_states(tmp_path):
    path = write(tmp_path / "a.dcm", np.full((64, 64), 1023, np.uint16), "MONOCHROME2", BitsStored=10)
    assert octa_to_grey(read_image(path)).min() == 255


def test_several_frames_are_refused(tmp_path):
    frames = np.concatenate([RGB, RGB])
    path = write(tmp_path / "a.dcm", frames, NumberOfFrames=2, Rows=64)
    with pytest.raises(DataError, match="contains 2 images"):
        read_fundus(path)


def write_in_half(path):
    write(path, RGB)
    path.write_bytes(path.read_bytes()[:-5000])


REFUSED = {
    "CT": (lambda path: write(path, GREY, "MONOCHROME2", uid.CTImageStorage), "kind CT Image Storage, no photograph"),
    "signed": (lambda path: write(path, GREY, "MONOCHROME2", PixelRepresentation=1), "signed pixels of 8 bits"),
    "palette": (lambda path: write(path, GREY, "PALETTE COLOR"), "colours PALETTE COLOR"),
    "cut off": (write_in_half, "cannot be read as an image"),
    "unknown compression": (
        lambda path: write(path, b"\xff\xd8", syntax=uid.JPEGLosslessSV1),
        "cannot be read as an image .*JPEG Lossless",
    ),
}


@pytest.mark.parametrize(("make", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_photograph_is_refused_in_a_line_without_the_patient(make, said, tmp_path):
    make(tmp_path / "a.dcm")
    with pytest.raises(DataError, match=f"^{tmp_path / 'a.dcm'}: .*{said}") as caught:
        read_fundus(tmp_path / "a.dcm")
    assert "\n" not in str(caught.value)
    assert "Jane" not in str(caught.value)


def test_nothing_of_the_patient_is_read(tmp_path, monkeypatch):
    path, read = write(tmp_path / "a.dcm", RGB, PixelSpacing=[0.0125, 0.0125]), []
    dcmread = pydicom.dcmread
    monkeypatch.setattr(pydicom, "dcmread", lambda *args, **how: read.append(dcmread(*args, **how)) or read[-1])
    read_fundus(path)
    facts_of(path)
    assert len(read) == 2
    assert not any("PatientName" in header for header in read)
