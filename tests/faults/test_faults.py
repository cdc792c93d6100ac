"""Damaged checkpoints, killed and doubled runs, full disks, settings that cannot be right.

More ends of programs are tried by `fifty_runs.py`.
"""

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SMALL, different_values, narrow_program

import pix_pix_eval as evaluate
import pix_pix_gen as gen
import pix_pix_train as train
import run.checkpoints as pix_run
import run.data as pix_data
import run.log as pix_log
from basics.command_line import UserError
from pairs.finished import Origin, write_png
from pix_generator import Generator
from run.devices import new_optimizer
from run.settings import Settings

SETTINGS = Settings(patch_size=64, batch_size=4, precision="float32", name="x", data="data/UT-FSOCTA-v1")
PHOTO = "data/UT-FSOCTA-v1/cropped/fundus/disc/1_OD.png"


@pytest.fixture(scope="module")
def networks():
    """Networks as `RunState` needs them, of a few hundred weights instead of 32 million."""
    generator = keras.Sequential([keras.Input((4,)), keras.layers.Dense(64), keras.layers.Dropout(0.5)])
    discriminator = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    return {
        "generator": generator,
        "discriminator": discriminator,
        "generator_optimizer": new_optimizer(generator, SETTINGS),
        "discriminator_optimizer": new_optimizer(discriminator, SETTINGS),
    }


def state_of(networks, folder, keep=3):
    return pix_run.RunState(SimpleNamespace(**networks), folder, keep)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run with the weights of a complete generator, a periodic checkpoint and the best."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    generator = Generator(3, (None, None), 1)
    for place, step in ((folder, 60), (folder / "best", 30)):
        pix_run.save(tf.train.Checkpoint(generator=generator), place, step, keep=1)
    pix_run.write_run(folder, SETTINGS, "0")
    return folder


@pytest.fixture(scope="module")
def saved(networks, tmp_path_factory):
    """A run's folder with checkpoints of steps 20, 40, 60 and the best of step 30; a weight holds the step."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    folder.mkdir()
    state = state_of(networks, folder)
    for step, save in ((20, state.save), (30, state.save_best), (40, state.save), (60, state.save)):
        state.step.assign(step)
        mark(networks).assign(np.full(mark(networks).shape, step))
        save()
    pix_run.write_run(folder, SETTINGS, "0")
    return folder


@pytest.fixture
def run(saved, tmp_path):
    """A copy of the run, to damage."""
    return shutil.copytree(saved, tmp_path / "training_checkpoints" / "x")


@pytest.fixture
def generator_run(trained, tmp_path):
    """A run to synthesise with, to damage: the large files are links."""
    return shutil.copytree(trained, tmp_path / "training_checkpoints" / "x", copy_function=os.symlink)


def mark(networks):
    return networks["generator"].trainable_variables[0]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)


def replace_by(link, content):
    link.unlink()
    link.write_bytes(content)


def contents(folder):
    """The bytes of every file but TensorFlow's record, which may be rewritten."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "checkpoint"}


@contextmanager
def largest_file(size):
    """No file may grow beyond so many bytes: as if the disk were full."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


# --- damaged checkpoints ---------------------------------------------------------------------------------------------

DAMAGES = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "missing": Path.unlink,
    "one bit flipped": flip,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_damaged_checkpoint_is_named_and_the_one_before_it_used(networks, run, capsys, damage, suffix):
    damage(run / f"ckpt-60{suffix}")
    state = state_of(networks, run)
    assert state.restore()
    printed = capsys.readouterr().out
    assert str(run / "ckpt-60") in printed
    assert printed.count("\n") == 1
    assert int(state.step) == 40
    assert np.all(mark(networks).numpy() == 40)


def test_damaged_checkpoint_is_replaced_by_the_resumed_run(networks, run):
    flip(run / "ckpt-60.index")
    state = state_of(networks, run)
    state.restore()
    state.step.assign(60)
    state.save()
    again = state_of(networks, run)
    assert again.restore()
    assert int(again.step) == 60
    assert [pix_run.step_of(path) for path in pix_run.list_checkpoints(run)] == [60, 40, 20]


def test_best_checkpoint_replaces_damaged_periodic_ones(networks, run):
    for step in (40, 60):
        os.truncate(run / f"ckpt-{step}.index", 0)
    state = state_of(networks, run)
    assert state.restore()
    assert (int(state.step), mark(networks).numpy().max()) == (30, 30)
    state.save()  # as a periodic one, which it is not yet
    assert (run / "ckpt-30.index").exists()


@pytest.mark.parametrize("record", [b"", b"\xff\x00not a record"])
def test_damaged_record_of_tensorflow_does_no_harm(networks, run, record):
    (run / "checkpoint").write_bytes(record)
    (run / "ckpt-80_temp").mkdir()  # what a killed process was writing
    (run / "ckpt-80_temp" / "part-00000-of-00001.data-00000-of-00001").write_bytes(b"half")
    state = state_of(networks, run, keep=2)
    state.remove_unfinished()
    assert state.restore()
    assert int(state.step) == 60
    state.step.assign(61)
    state.save()
    assert [pix_run.step_of(path) for path in pix_run.list_checkpoints(run)] == [61, 60]
    assert tf.train.latest_checkpoint(run).endswith("ckpt-61")
    assert not list(run.glob("*_temp"))


def test_without_an_intact_checkpoint_nothing_is_overwritten(networks, run):
    for path in [*run.glob("*.index"), *run.glob("best/*.index")]:
        os.truncate(path, 10)
    before = contents(run)
    state = state_of(networks, run)
    with pytest.raises(pix_run.RunError, match="ckpt-60"):
        state.restore()
    assert before.items() <= contents(run).items()


def test_synthesis_falls_back_on_an_intact_checkpoint(project, generator_run, capsys, refused):
    replace_by(generator_run / "best" / "ckpt-30.data-00000-of-00001", b"truncated")
    run = ["--run", "training_checkpoints/x"]
    assert gen.main([PHOTO, *run]) == 0
    assert "Weights: training_checkpoints/x/ckpt-60" in capsys.readouterr().out
    assert "best/ckpt-30" in refused(gen, PHOTO, *run, "--weights", "best")


def test_weights_that_are_not_finite_are_never_saved(networks, run):
    state = state_of(networks, run)
    state.restore()
    state.step.assign(61)
    mark(networks).assign(np.full(mark(networks).shape, np.nan))
    for save in (state.save, state.save_best):
        with pytest.raises(pix_run.RunError, match="not finite after step 61"):
            save()
    assert not list(run.rglob("ckpt-61*"))
    assert state.restore()


# --- killed, and stopped ---------------------------------------------------------------------------------------------


def start(*options):
    """Start training with narrow networks; its output, line by line, is the process's stdout."""
    command = narrow_program("pix_pix_train.py", *SMALL, "--l1-only", "1", *options)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def read_until(process, words):
    """Read a program's output up to a line that starts with some words."""
    next(line for line in process.stdout if line.strip().startswith(words))


@pytest.mark.slow
def test_runs_that_are_killed_are_resumed_and_equal_an_unbroken_one(project):
    options = ["--epochs", "6", "--name", "killed"]
    with start(*options) as killed:  # before there is any checkpoint
        read_until(killed, "Run:")
        killed.kill()
    assert list(Path("training_checkpoints/killed").glob("*.index")) == []
    resume = ["--resume", "training_checkpoints/killed"]
    with start(*resume) as writing:  # while it writes one
        while writing.poll() is None and not any(Path("training_checkpoints").rglob("ckpt-*_temp")):
            time.sleep(0.001)
        writing.kill()
        assert writing.wait() == -signal.SIGKILL
    assert train.main(resume) == 0
    assert train.main([*SMALL, "--l1-only", "1", "--epochs", "6", "--name", "whole"]) == 0
    for place in ("", "best"):
        assert different_values(f"training_checkpoints/whole/{place}", f"training_checkpoints/killed/{place}") == []
    metrics = [Path(f"logs/fit/{name}/metrics.csv").read_text() for name in ("whole", "killed")]
    assert metrics[0] == metrics[1]


@pytest.mark.slow
def test_second_signal_ends_at_once_and_harms_no_checkpoint(project):
    with start("--epochs", "120", "--name", "x") as process:
        for words in ("validation:", "validation:"):
            read_until(process, words)
        process.send_signal(signal.SIGINT)
        read_until(process, "Stopping")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == -signal.SIGINT
    left = [path.with_suffix("") for path in Path("training_checkpoints/x").rglob("ckpt-*.index")]
    assert left
    for path in left:
        reader = tf.train.load_checkpoint(path)
        names = [name for name in reader.get_variable_to_shape_map() if "trainable_variables" in name]
        assert all(np.isfinite(reader.get_tensor(name)).all() for name in names)


# --- two runs at once ------------------------------------------------------------------------------------------------


def test_two_runs_of_one_second_have_their_own_folders(project, monkeypatch):
    class OneMoment(pix_run.datetime):
        @classmethod
        def now(cls):
            return cls(2023, 9, 18, 12, 0, 0)

    monkeypatch.setattr(pix_run, "datetime", OneMoment)
    names = [pix_run.claim_folders(replace(SETTINGS, name=None), "0", ()).name for _ in range(3)]
    assert names == ["20230918-120000", "20230918-120000-2", "20230918-120000-3"]
    assert all(Path("logs/fit", name).is_dir() and Path("training_checkpoints", name).is_dir() for name in names)


HOLD = """import sys, time, filelock
lock = filelock.FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_run_that_another_process_trains_is_refused(project, run, refused):
    pix_run.write_run(run, SETTINGS, pix_data.load_run_data(SETTINGS, verbose=False).digest)
    before = contents(run)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run / ".lock")], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    assert "training_checkpoints/x" in refused(train, "--resume")
    assert before.items() <= contents(run).items()
    holder.kill()  # this releases the lock
    holder.communicate()
    with pix_run.lock(run):
        pass


# --- a full disk, and folders that cannot be written -----------------------------------------------------------------


def test_checkpoint_without_room_leaves_the_earlier_ones(networks, run):
    state = state_of(networks, run)
    state.restore()
    before = contents(run)
    state.step.assign(80)
    with largest_file(1000):  # bytes; a checkpoint has more
        for save in (state.save, state.save_best):
            with pytest.raises(pix_run.RunError, match=r"step 80 .*ckpt-80"):
                save()
    assert not list(run.rglob("ckpt-80*"))
    assert before.items() <= contents(run).items()
    state.save()  # there is room again
    assert (run / "ckpt-80.index").exists()


def test_summaries_without_room_are_refused(tmp_path):
    log = pix_log.RunLog(tmp_path)
    with largest_file(1000), pytest.raises(UserError, match=f"{tmp_path}: cannot be written to; make room"):
        log.scalars({f"loss {number}": 0.5 for number in range(100)}, 1)


def test_file_without_room_does_not_exist(tmp_path):
    path = tmp_path / "x.png"
    noise = np.random.default_rng(0).integers(0, 256, (99, 99), dtype=np.uint8)
    with largest_file(1000), pytest.raises(OSError, match=re.escape(str(path))) as caught:
        write_png(noise, path, Origin("", "made with noise"))
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("blocked", ["logs", "training_checkpoints"])
def test_folder_that_cannot_be_made_is_one_line_and_leaves_nothing(project, refused, blocked):
    Path(blocked).write_text("a file, where a folder should be")
    assert blocked in refused(train, "--patch-size", "64", "--precision", "float32")
    left = {path.name for path in project.iterdir()} - {"data", blocked}
    assert left <= {"logs", "training_checkpoints"}
    assert not [path for name in left for path in Path(name).rglob("*") if path.name != "fit"]


# --- settings that cannot be right -----------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"patch_size": "64; import os"}, {"name": "../../outside"}, {"warm_up": 0.75}])
def test_settings_that_cannot_be_right_are_refused(project, generator_run, refused, change):
    settings = asdict(SETTINGS) | change
    replace_by(generator_run / "run.json", json.dumps({"settings": settings, "data_digest": "0"}).encode())
    at = ["--run", str(generator_run)]
    for program, options in ((train, ["--resume"]), (gen, [PHOTO, *at]), (evaluate, [*at, "--data", "data"])):
        assert "run.json" in refused(program, *options)
