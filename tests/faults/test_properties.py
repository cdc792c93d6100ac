"""Any bytes are a table or an image, or one line says what is wrong with them.

`hypothesis` makes the cases, from a fixed seed; `HUNT=2000 pytest tests/faults/test_properties.py` makes others.
"""

import csv
import io
import os

import numpy as np
import pytest
from conftest import fake_fundus
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from basics.command_line import UserError
from pairs.table import read_pairs
from retina.images import read_image
from run.log import read_metrics
from synthesis.photographs import check_jobs, list_jobs

HUNT = int(os.environ.get("HUNT", "0"))
CASES = settings(
    max_examples=HUNT or 150,
    derandomize=not HUNT,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
CELLS = st.text(max_size=8) | st.sampled_from(["", ".", "..", "a.png", "b.png", "NA", "nan", "OD", "train", "1", "é"])
COLUMNS = ["fundus", "octa", "subject", "eye", "region", "split", "path", "epoch", "step", "mae"]


@st.composite
def tables(draw) -> bytes:
    """The bytes of a table: mostly CSV of some program's kind, now and then anything."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=80))
    text = io.StringIO()
    writer = csv.writer(text, delimiter=draw(st.sampled_from(",;\t")))
    writer.writerow(draw(st.lists(st.sampled_from(COLUMNS) | st.text(max_size=4), min_size=1, max_size=7)))
    writer.writerows(draw(st.lists(st.lists(CELLS, max_size=8), max_size=5)))
    return text.getvalue().encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"])), "replace")


def intact_images() -> list[bytes]:
    """Images of 8 and 16 bits in several formats."""
    image = Image.fromarray(fake_fundus(np.random.default_rng(0), 30, 40))
    deep = Image.fromarray(np.asarray(image)[..., 0] * np.uint16(257))
    made = []
    for picture, kind in [*((image, kind) for kind in ("PNG", "JPEG", "TIFF", "BMP")), (deep, "PNG"), (deep, "TIFF")]:
        picture.save(file := io.BytesIO(), kind)
        made.append(file.getvalue())
    return made


@st.composite
def damaged_images(draw) -> bytes:
    """The bytes of an image of which some are others, or which is cut off."""
    content = bytearray(draw(st.sampled_from(intact_images())))
    for place, value in draw(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=20)):
        content[place % len(content)] = value
    return bytes(content[: draw(st.integers(0, 2 * len(content)))])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with files that tables may name."""
    folder = tmp_path_factory.mktemp("files")
    for file in ("a.png", "b.png", "é"):
        (folder / file).touch()
    return folder


def refused(call) -> bool:
    """Whether a call is refused; any other error is a fault."""
    try:
        call()
    except UserError:
        return True
    return False


def read_list(path):
    jobs = list_jobs([str(path)], path.parent / "out", {"field_degrees": None, "px_per_mm": None, "mask": None})
    check_jobs(jobs, path.parent / "out")


def read_all_pairs(path):
    pairs = read_pairs(path, "80/10/10")
    assert len({pair[-1] for pair in pairs}) == len(pairs) > 0  # their names


READERS = {
    "pairs": read_all_pairs,
    "photographs": read_list,
    "metrics": lambda path: read_metrics(path, 3),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@CASES
@given(content=tables())
def test_any_bytes_are_a_table_or_refused(folder, read, content):
    path = folder / "table.csv"
    path.write_bytes(content)
    refused(lambda: read(path))


@CASES
@given(content=st.binary(max_size=200) | damaged_images())
def test_any_bytes_are_an_image_or_refused(folder, content):
    path = folder / "image.png"
    path.write_bytes(content)
    assert refused(lambda: read_image(path)) or read_image(path).shape[2:] == (4,)
