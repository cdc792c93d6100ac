"""Shards: together they give what one run gives, and what does not belong together is not collected."""

from pathlib import Path

import numpy as np
import pytest
from conftest import files_below, round_field, seeing
from PIL import Image

from basics.command_line import OptionError
from pairs.origin import Origin, Record, write_png
from retina.vessels import WHOLE
from synthesis.photographs import Job
from synthesis.shards import Shard, collect
from synthesis.synthesise import DENSITIES, DENSITY_COLUMNS, Synthesis, synthesise

JOBS = [Job(Path(f"p{number}.png"), Path(f"p{number}.png")) for number in range(5)]
TABLE = Path("out", DENSITIES)


@pytest.fixture(autouse=True)
def photos(tmp_path, monkeypatch):
    """A folder with small photographs."""
    monkeypatch.chdir(tmp_path)
    for number, job in enumerate(JOBS):
        Image.fromarray(round_field(60 + 10 * number)).save(job.source)


def run(shard=None):
    """Synthesise a shard, or all, without a trained network, into out/."""
    jobs, table = (JOBS, TABLE) if shard is None else ([job for job in JOBS if shard.has(job)], shard.of(TABLE))
    record = Record(table, DENSITY_COLUMNS, WHOLE)
    synthesise(Synthesis(seeing(), Path("out"), record, True, True, str(shard or "")), jobs, overwrite=False)
    return jobs


def test_shards_together_give_what_one_run_gives():
    run()
    one = {name: Path("out", name).read_bytes() for name in files_below("out")}
    Path("out").rename("before")
    for number in (2, 1):
        run(Shard(number, 2))
    collect(TABLE, DENSITY_COLUMNS)
    together = {name: Path("out", name).read_bytes() for name in files_below("out")}
    assert {name: together[name] for name in one} == one
    assert sorted(together.keys() - one.keys()) == [
        *("densities_1of2.csv", "densities_2of2.csv", "sheet_1of2_1.png", "sheet_2of2_1.png")
    ]


def test_each_photograph_is_in_one_shard_and_stays_there():
    shards = [Shard(number, 3) for number in (1, 2, 3)]
    of = [[shard.number for shard in shards if shard.has(job)] for job in JOBS]
    assert of == [[3], [1], [2], [2], [2]]


def test_missing_shard_is_named():
    run(Shard(2, 2))
    with pytest.raises(OptionError, match=r"densities_1of2\.csv: does not exist; run --shard 1/2 first"):
        collect(TABLE, DENSITY_COLUMNS)


def test_tables_of_two_numbers_of_shards_are_not_mixed():
    for shard in (Shard(1, 1), Shard(1, 2)):
        run(shard)
    with pytest.raises(OptionError, match=r"densities_1of2\.csv: is of another number of shards"):
        collect(TABLE, DENSITY_COLUMNS)


@pytest.mark.parametrize("other", [Origin("", "run/ckpt-7"), Origin("1a2b", "run/ckpt-8")])
def test_row_of_another_result_is_not_collected(other):
    job, *_ = run(Shard(1, 1))
    write_png(np.zeros((9, 9), np.uint8), Path("out", job.target), other)
    with pytest.raises(OptionError, match=rf"densities_1of1\.csv: {job.target} is not of this row"):
        collect(TABLE, DENSITY_COLUMNS)


def test_folder_without_shards_is_refused():
    with pytest.raises(OptionError, match="has no tables of shards"):
        collect(TABLE, DENSITY_COLUMNS)
