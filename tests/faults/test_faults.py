"""Damaged checkpoints, killed and doubled runs, full disks. More ends of programs are tried by `fifty_runs.py`."""

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SMALL, different_values, narrow_program

import pix_pix_gen as gen
import pix_pix_train as train
from basics.command_line import UserError
from run import checkpoints
from run.data import load_run_data
from run.devices import new_optimizer
from run.log import RunLog
from run.settings import Settings

SETTINGS = Settings(patch_size=64, batch_size=4, precision="float32", name="x", data="data/UT-FSOCTA-v1")


@pytest.fixture(scope="module")
def networks():
    """Networks as `RunState` needs them, of a few hundred weights instead of 32 million."""
    generator = keras.Sequential([keras.Input((4,)), keras.layers.Dense(64), keras.layers.Dropout(0.5)])
    discriminator = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    optimizers = [new_optimizer(network, SETTINGS) for network in (generator, discriminator)]
    return SimpleNamespace(**dict(zip(checkpoints.PARTS, (generator, discriminator, *optimizers), strict=True)))


@pytest.fixture
def run(networks, tmp_path):
    """A run's folder with checkpoints of steps 20, 40, 60 and the best of step 30; a weight holds the step."""
    folder = tmp_path / "training_checkpoints" / "x"
    folder.mkdir(parents=True)
    state = checkpoints.RunState(networks, folder, keep=3)
    for step, save in ((20, state.save), (30, state.save_best), (40, state.save), (60, state.save)):
        state.step.assign(step)
        mark(networks).assign(np.full(mark(networks).shape, step))
        save()
    return folder


def mark(networks):
    return networks.generator.trainable_variables[0]


def restored(networks, run):
    """The run's state, with its newest checkpoint."""
    state = checkpoints.RunState(networks, run, keep=3)
    assert state.restore()
    assert np.all(mark(networks).numpy() == int(state.step))
    return state


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)


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


INDEX, DATA = "ckpt-60.index", "ckpt-60.data-00000-of-00001"
DAMAGES = [(INDEX, truncate), (INDEX, flip), (DATA, truncate), (DATA, flip), (DATA, Path.unlink)]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_damaged_checkpoint_is_named_and_once_deleted_the_one_before_it_is_used(networks, run, name, damage):
    damage(run / name)
    before = contents(run)
    with pytest.raises(checkpoints.RunError, match=f"^{run}/ckpt-60: damaged.* delete {run}/ckpt-60"):
        checkpoints.RunState(networks, run, keep=3).restore()
    assert contents(run) == before
    for path in run.glob("ckpt-60.*"):
        path.unlink()
    assert int(restored(networks, run).step) == 40


def test_what_a_killed_process_was_writing_is_no_checkpoint_and_is_replaced(networks, run):
    (run / INDEX).unlink()  # it is written last
    (run / "ckpt-80_temp").mkdir()
    (run / "checkpoint").write_bytes(b"\xff\x00not a record")  # TensorFlow's
    state = restored(networks, run)
    assert int(state.step) == 40
    state.step.assign(60)
    state.save()
    assert [checkpoints.step_of(path) for path in checkpoints.list_checkpoints(run)] == [60, 40, 20]
    assert tf.train.latest_checkpoint(run).endswith("ckpt-60")
    assert not list(run.glob("*_temp"))


def test_synthesis_refuses_a_damaged_checkpoint(trained_project, refused):
    (path,) = Path("training_checkpoints/small/best").glob("*.data-*")
    truncate(path)
    photo = "data/UT-FSOCTA-v1/cropped/fundus/disc/1_OD.png"
    assert str(path).partition(".data")[0] in refused(gen, photo, "--run", "training_checkpoints/small")


def test_weights_that_are_not_finite_are_never_saved(networks, run):
    state = restored(networks, run)
    state.step.assign(61)
    mark(networks).assign(np.full(mark(networks).shape, np.nan))
    for save in (state.save, state.save_best):
        with pytest.raises(checkpoints.RunError, match=f"not finite after step 61.*{run}/ckpt-60"):
            save()
    assert not list(run.rglob("ckpt-61*"))


# --- killed, and two at once -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_run_that_fails_and_is_killed_is_resumed_and_equals_an_unbroken_one(project, monkeypatch):
    options = [*SMALL, "--l1-only", "1", "--epochs", "3"]
    with monkeypatch.context() as patched:  # before there is any checkpoint
        patched.setattr(train, "check_finite", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train.main([*options, "--name", "killed"])
    resume = ["--resume", "training_checkpoints/killed"]
    with subprocess.Popen(narrow_program("pix_pix_train.py", *resume)) as writing:  # while it writes one
        while writing.poll() is None and not any(Path("training_checkpoints").rglob("ckpt-*_temp")):
            time.sleep(0.001)
        writing.kill()
        assert writing.wait() == -signal.SIGKILL
    assert train.main(resume) == 0
    assert train.main([*options, "--name", "whole"]) == 0
    for place in ("", "best"):
        assert different_values(f"training_checkpoints/whole/{place}", f"training_checkpoints/killed/{place}") == []
    metrics = [Path(f"logs/fit/{name}/metrics.csv").read_text() for name in ("whole", "killed")]
    assert metrics[0] == metrics[1]


def test_two_runs_of_one_second_have_their_own_folders(project, monkeypatch):
    class OneMoment(checkpoints.datetime):
        @classmethod
        def now(cls):
            return cls(2023, 9, 18, 12, 0, 0)

    monkeypatch.setattr(checkpoints, "datetime", OneMoment)
    names = [checkpoints.claim_folder(replace(SETTINGS, name=None)).name for _ in range(3)]
    assert names == ["20230918-120000", "20230918-120000-2", "20230918-120000-3"]
    assert all(Path("training_checkpoints", name).is_dir() for name in names)


HOLD = "import sys, time, filelock; filelock.FileLock(sys.argv[1]).acquire(); print('held', flush=True); time.sleep(60)"


def test_run_that_another_process_trains_is_refused(project, run, refused):
    checkpoints.write_run(run, SETTINGS, load_run_data(SETTINGS).digest)
    before = contents(run)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run / ".lock")], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    assert "training_checkpoints/x" in refused(train, "--resume")
    assert before.items() <= contents(run).items()
    holder.kill()  # this releases the lock
    holder.communicate()
    with checkpoints.lock(run):
        pass


# --- a full disk, and folders that cannot be written -----------------------------------------------------------------


def test_checkpoint_without_room_leaves_the_earlier_ones(networks, run):
    state = restored(networks, run)
    before = contents(run)
    state.step.assign(80)
    with largest_file(1000):  # bytes; a checkpoint has more
        for save in (state.save, state.save_best):
            with pytest.raises(checkpoints.RunError, match=r"step 80 .*ckpt-80"):
                save()
    assert contents(run) == before
    state.save()  # there is room again
    assert (run / "ckpt-80.index").exists()


def test_summaries_without_room_are_refused(tmp_path):
    log = RunLog(tmp_path)
    with largest_file(1000), pytest.raises(UserError, match=f"{tmp_path}: cannot be written to; make room"):
        log.scalars({f"loss {number}": 0.5 for number in range(100)}, 1)


@pytest.mark.parametrize("blocked", ["logs", "training_checkpoints"])
def test_folder_that_cannot_be_made_is_one_line_and_leaves_nothing(project, refused, blocked):
    Path(blocked).write_text("a file, where a folder should be")
    assert blocked in refused(train, *SMALL)
    assert not [path for name in ("logs", "training_checkpoints") for path in Path(name).rglob("*/*")]
