"""Properties that hold for any table, image, setting or command line: a result, or one line that says what to do.

`hypothesis` makes the cases, from a fixed seed; `HUNT=2000 pytest tests/faults/test_properties.py` makes others.
"""

import csv
import io
import os
import subprocess
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import fake_fundus, program
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import dataset_load_mod
import pix_pix_eval
import pix_pix_gen
from basics.command_line import UserError, flag, one_line
from basics.files import read_table, write_table
from pairs.table import names_of, read_pairs
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
WORDS = ["", ".", "..", "a.png", "b.png", "NA", "nan", "OD", "disc", "train", "1", "é"]
CELLS = st.text(max_size=8) | st.sampled_from(WORDS)
COLUMNS = ["fundus", "octa", "subject", "eye", "region", "split", "path", "epoch", "step", "mae"]
HEADERS = st.lists(st.sampled_from(COLUMNS) | st.text(max_size=4), min_size=1, max_size=7)
FILES = st.from_regex(r"[ab]{1,2}(/[ab]{1,2}){0,2}\.(png|tif)", fullmatch=True)
KINDS = {int: st.integers(-3, 300), float: st.floats(-1, 200), bool: st.booleans()}
VALUES = {spec.name: KINDS.get(spec.type, st.text(max_size=6)) for spec in fields(Settings)}
OPTIONS = ["--run", "--output", "--px-per-mm", "--stride", "--split", "check", "crop", "--format"]
ODD_WORDS = [
    "",
    " ",
    "-1",
    "0",
    "1e999",
    "nan",
    "9" * 5000,
    "0x10",
    "١٢",
    "[]",
    "*",
    "/dev/null/x",
    "--",
    "a\nb",
    "网膜",
]


@st.composite
def tables(draw) -> bytes:
    """The bytes of a table: mostly CSV of some program's kind, now and then anything."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=80))
    text = io.StringIO()
    ending = draw(st.sampled_from(["\n", "\r\n"]))
    writer = csv.writer(text, delimiter=draw(st.sampled_from(",;\t")), lineterminator=ending)
    writer.writerow(draw(HEADERS))
    writer.writerows(draw(st.lists(st.lists(CELLS, max_size=8), max_size=5)))
    return text.getvalue().encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"])), "replace")


def intact_images() -> list[bytes]:
    """Images of 8 and 16 bits in several formats."""
    image = Image.fromarray(fake_fundus(np.random.default_rng(0), 30, 40))
    deep = Image.fromarray(np.asarray(image)[..., 0] * np.uint16(257))
    made = []
    for picture, kind in (
        (image, "PNG"),
        (image, "JPEG"),
        (image, "TIFF"),
        (image, "BMP"),
        (deep, "PNG"),
        (deep, "TIFF"),
    ):
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


def tried(call: Callable, error: type[Exception] = UserError) -> tuple[Any, str | None]:
    """What a call returns, and None; or None, and the line in which it refuses."""
    try:
        return call(), None
    except error as refusal:
        return None, one_line(refusal)


@CASES
@given(content=tables())
def test_any_bytes_are_a_table_of_pairs_or_refused(folder, content):
    path = folder / "pairs.csv"
    path.write_bytes(content)
    pairs, refusal = tried(lambda: read_pairs(path, "80/10/10"))
    assert refusal or len({pair[-1] for pair in pairs}) == len(pairs) > 0


@CASES
@given(content=tables())
def test_any_bytes_are_a_list_of_photographs_or_refused(folder, content):
    path = folder / "list.csv"
    path.write_bytes(content)
    given = {"field_degrees": None, "px_per_mm": None, "mask": None}
    listed, refusal = tried(lambda: list_jobs([str(path)], folder / "out", given))
    assert refusal or tried(lambda: check_jobs(listed[0], folder / "out")) != (None, "")


@CASES
@given(content=tables(), epochs=st.integers(0, 3))
def test_any_bytes_are_metrics_or_said_to_be_damaged(folder, content, epochs):
    path = folder / "metrics.csv"
    path.write_bytes(content)
    rows, damage = tried(lambda: read_metrics(path, epochs), ValueError)
    assert damage or len(rows) <= epochs


@CASES
@given(rows=st.lists(st.fixed_dictionaries({"a": st.text(), "b": st.text(), "path": st.text(min_size=1)}), max_size=5))
def test_a_table_that_was_written_reads_the_same(folder, rows):
    rows = [{name: cell.replace("\0", "").replace("\r", "") for name, cell in row.items()} for row in rows]
    path = folder / "written.csv"
    write_table(path, ("a", "b", "path"), rows)
    assert read_table(path) == rows


@CASES
@given(files=st.lists(FILES, min_size=1, unique=True))
def test_names_of_files_are_unique(files):
    assert len(set(names_of([Path("/data") / file for file in files]))) == len(files)


@CASES
@given(values=st.fixed_dictionaries({}, optional=VALUES))
def test_any_settings_are_valid_or_refused_and_come_back_from_their_options(values):
    made, refusal = tried(lambda: Settings(**values))
    flags = {flag(f"{no}{spec.name}") for spec in fields(Settings) if spec.type is bool for no in ("", "no_")}
    words = (
        [option if option in flags else f"{option}={value}" for option, value in as_options(made).items()]
        if made
        else []
    )
    assert refusal or Settings(**parse_command_line(words, "program", "what it does")) == made


@CASES
@given(content=st.binary(max_size=200) | damaged_images())
def test_any_bytes_are_an_image_or_refused(folder, content):
    path = folder / "image.png"
    path.write_bytes(content)
    image, refusal = tried(lambda: read_image(path))
    assert refusal or image.shape[2:] == (4,)


@pytest.mark.parametrize("module", [dataset_load_mod, pix_pix_eval, pix_pix_gen], ids=lambda module: module.PROGRAM)
@CASES
@given(words=st.lists(st.sampled_from(OPTIONS + ODD_WORDS), max_size=5))
def test_any_command_line_is_read_or_refused_with_status_2(module, words):
    _, refusal = tried(lambda: module.parse_command_line(words), SystemExit)
    assert refusal in (None, "2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"), [("pix_pix_gen.py", ["网膜\nb.png"]), ("pix_pix_train.py", ["--data", os.fsdecode(b"\xff")])]
)
def test_program_refuses_in_one_line_in_any_encoding(project, name, options):
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run(program(name, *options), capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"{name}: error: ")
    assert done.stderr.count(name) == 1
