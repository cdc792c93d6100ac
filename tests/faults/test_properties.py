"""Properties that hold for any table, image, setting or command line: a result, or one line that says what to do.

`hypothesis` makes the cases, from a fixed seed; `HUNT=2000 pytest tests/faults/test_properties.py` makes others.
"""

import csv
import io
import os
from dataclasses import fields

import numpy as np
import pytest
from conftest import fake_fundus
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import dataset_load_mod
import pix_pix_eval
import pix_pix_gen
from basics.command_line import UserError, flag
from pairs.table import read_pairs
from retina.images import read_image
from run.log import read_metrics
from run.settings import Settings, as_options, parse_command_line
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
KINDS = {int: st.integers(-3, 300), float: st.floats(-1, 200), bool: st.booleans()}
VALUES = {spec.name: KINDS.get(spec.type, st.text(max_size=6)) for spec in fields(Settings)}
OPTIONS = ["--run", "--output", "--px-per-mm", "--stride", "--split", "check", "crop", "--format"]
OPTIONS += ["", " ", "-1", "0", "1e999", "nan", "9" * 5000, "0x10", "١٢", "[]", "*", "/dev/null/x", "--", "a\nb", "眼"]


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


def refused(call, error=UserError) -> bool:
    """Whether a call is refused with such an error; any other error is a fault."""
    try:
        call()
    except error:
        return True
    return False


def read_list(path):
    jobs = list_jobs([str(path)], path.parent / "out", {"field_degrees": None, "px_per_mm": None, "mask": None}).jobs
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
@given(values=st.fixed_dictionaries({}, optional=VALUES))
def test_any_settings_are_refused_or_come_back_from_their_options(values):
    if not refused(lambda: Settings(**values)):
        made = Settings(**values)
        flags = {flag(f"{no}{spec.name}") for spec in fields(Settings) if spec.type is bool for no in ("", "no_")}
        words = [option if option in flags else f"{option}={value}" for option, value in as_options(made).items()]
        assert Settings(**parse_command_line(words, "program", "what it does")) == made


@CASES
@given(content=st.binary(max_size=200) | damaged_images())
def test_any_bytes_are_an_image_or_refused(folder, content):
    path = folder / "image.png"
    path.write_bytes(content)
    assert refused(lambda: read_image(path)) or read_image(path).shape[2:] == (4,)


@pytest.mark.parametrize("module", [dataset_load_mod, pix_pix_eval, pix_pix_gen], ids=lambda module: module.PROGRAM)
@CASES
@given(words=st.lists(st.sampled_from(OPTIONS), max_size=5))
def test_any_command_line_is_read_or_ends_the_program(module, words):
    refused(lambda: module.parse_command_line(words), SystemExit)
