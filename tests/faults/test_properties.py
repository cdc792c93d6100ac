"""Properties that hold for any table, name or option: a result, or one line that says what to do.

`hypothesis` makes the cases, from a fixed seed; `HUNT=2000 pytest tests/faults/test_properties.py` makes others.
"""

import csv
import io
import os
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from basics.command_line import UserError, flag, one_line
from basics.files import read_table, write_table
from pairs.finished import printable
from pairs.table import names_of, read_pairs, shared_out
from retina.images import read_image
from retina.ut_fsocta import parse_shares, parse_subjects
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


@pytest.fixture(scope="module")
def folder():
    """A folder with files that tables may name."""
    with tempfile.TemporaryDirectory() as name:
        for file in ("a.png", "b.png", "é"):
            (Path(name) / file).touch()
        yield Path(name)


def tried(call: Callable, error: type[Exception] = UserError) -> tuple[Any, str | None]:
    """What a call returns, and None; or None, and the line in which it refuses."""
    try:
        return call(), None
    except error as refusal:
        return None, one_line(refusal)


def settings_from(options: dict[str, str]) -> Settings:
    """The settings that options of the command line give."""
    flags = {flag(f"{no}{spec.name}") for spec in fields(Settings) if spec.type is bool for no in ("", "no_")}
    words = [option if option in flags else f"{option}={value}" for option, value in options.items()]
    return Settings(**parse_command_line(words, "program", "what it does"))


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
    assert damage or len(rows) == epochs


@CASES
@given(rows=st.lists(st.fixed_dictionaries({"a": st.text(), "b": st.text(), "path": st.text(min_size=1)}), max_size=5))
def test_a_table_that_was_written_reads_the_same(folder, rows):
    rows = [{name: cell.replace("\0", "").replace("\r", "") for name, cell in row.items()} for row in rows]
    path = folder / "written.csv"
    write_table(path, ("a", "b", "path"), rows)
    assert read_table(path) == rows


@CASES
@given(name=st.binary(min_size=1, max_size=40).filter(lambda name: b"/" not in name and b"\0" not in name))
def test_any_file_name_is_printable(name):
    assert printable(Path(os.fsdecode(name))).encode("utf-8")


@CASES
@given(text=st.text(max_size=12) | st.from_regex(r"\d{1,3}/\d{1,3}/\d{1,3}", fullmatch=True))
def test_any_text_is_shares_or_refused(text):
    shares, refusal = tried(lambda: parse_shares(text), ValueError)
    assert refusal or sum(shares) == pytest.approx(1)


@CASES
@given(subjects=st.sets(st.text(max_size=5), min_size=3, max_size=30))
def test_every_subject_is_in_one_split_and_no_split_is_empty(subjects):
    splits = shared_out(subjects, "80/10/10")
    assert splits.keys() == subjects
    assert set(splits.values()) == {"train", "validation", "test"}


@CASES
@given(files=st.lists(FILES, min_size=1, unique=True))
def test_names_of_files_are_unique(files):
    assert len(set(names_of([Path("/data") / file for file in files]))) == len(files)


@CASES
@given(text=st.text(max_size=10) | st.from_regex(r"[\d,\- ]{1,12}", fullmatch=True))
def test_any_text_is_subjects_or_refused(text):
    subjects, refusal = tried(lambda: parse_subjects(text), ValueError)
    assert refusal or subjects == sorted(set(subjects))


@CASES
@given(values=st.fixed_dictionaries({}, optional=VALUES))
def test_any_settings_are_valid_or_refused_and_come_back_from_their_options(values):
    made, refusal = tried(lambda: Settings(**values))
    assert refusal or settings_from(as_options(made)) == made


@CASES
@given(content=st.binary(max_size=200) | st.binary(max_size=60).map(lambda data: b"\x89PNG\r\n\x1a\n" + data))
def test_any_bytes_are_an_image_or_refused(folder, content):
    path = folder / "image.png"
    path.write_bytes(content)
    image, refusal = tried(lambda: read_image(path))
    assert refusal or image.ndim == 3
