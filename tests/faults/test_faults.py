"""What must hold when things go wrong; the longer trials are the scripts beside this file."""

import errno
import json
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import write_tiny_dataset
from kill import EPOCHS, NEW_RUN, kill_while_writing, start
from test_pix_pix_train import different_values

import pix_pix_eval as evaluate
import pix_pix_gen as gen
import pix_pix_train as train
import pix_run

PROJECT = Path(__file__).resolve().parents[2]
SETTINGS = train.Settings(patch_size=64, batch_size=4, precision="float32", name="x", data="data/UT-FSOCTA-v1")


@pytest.fixture(scope="module")
def networks():
    """Networks as `RunState` needs them, of a few hundred weights instead of 32 million."""
    generator = keras.Sequential([keras.Input((4,)), keras.layers.Dense(64), keras.layers.Dropout(0.5)])
    discriminator = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    return SimpleNamespace(
        generator=generator,
        discriminator=discriminator,
        generator_optimizer=train.new_optimizer(generator, SETTINGS),
        discriminator_optimizer=train.new_optimizer(discriminator, SETTINGS),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run with the weights of a whole generator, periodic ones and the best."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    generator = gen.Generator(3, (None, None), 1)
    for place, step in ((folder, 60), (folder / "best", 30)):
        pix_run.save(tf.train.Checkpoint(generator=generator), place, step, keep=1)
    train.write_run(folder, SETTINGS, "0")
    return folder


@pytest.fixture(scope="module")
def saved(networks, tmp_path_factory):
    """A run's folder with checkpoints of the steps 20, 40, 60 and the best of step 30; a weight says which is which."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    folder.mkdir()
    state = train.RunState(networks, folder, keep=3)
    for step, save in ((20, state.save), (30, state.save_best), (40, state.save), (60, state.save)):
        state.step.assign(step)
        mark(networks).assign(np.full(mark(networks).shape, step))
        save()
    train.write_run(folder, SETTINGS, "0")
    return folder


@pytest.fixture
def run(saved, tmp_path):
    """A copy of the run, to damage."""
    return shutil.copytree(saved, tmp_path / "training_checkpoints" / "x")


@pytest.fixture
def generator_run(trained, tmp_path):
    """A run to synthesise with, to damage: the large files are links."""
    return shutil.copytree(trained, tmp_path / "training_checkpoints" / "x", copy_function=os.symlink)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder to run in, with the tiny dataset."""
    write_tiny_dataset(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mark(networks):
    return networks.generator.trainable_variables[0]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)


def fill_with_pickle(path):
    path.write_bytes(pickle.dumps(os.system))


def replace_by(link, content):
    link.unlink()
    link.write_bytes(content)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- damaged checkpoints ---------------------------------------------------------------------------------------------

DAMAGES = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "missing": Path.unlink,
    "one bit flipped": flip,
    "a pickle": fill_with_pickle,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_damaged_checkpoint_is_named_and_the_one_before_it_used(networks, run, capsys, damage, suffix):
    damage(run / f"ckpt-60{suffix}")
    state = train.RunState(networks, run, keep=3)
    assert state.restore()
    printed = capsys.readouterr().out
    assert printed.startswith(f"{run / 'ckpt-60'}: damaged, or of another model (")
    assert printed.endswith("); the one before it is used\n")
    assert printed.count("\n") == 1
    assert int(state.step) == 40
    assert np.all(mark(networks).numpy() == 40)

    # And the run goes on: the damaged one gives way, the whole ones stay as they are asked for.
    state.step.assign(60)
    state.save()
    again = train.RunState(networks, run, keep=3)
    assert again.restore()
    assert int(again.step) == 60
    assert capsys.readouterr().out == ""
    assert [pix_run.step_of(path) for path in pix_run.list_checkpoints(run)] == [60, 40, 20]


def test_best_checkpoint_stands_in_for_older_periodic_ones(networks, run):
    for step in (40, 60):
        os.truncate(run / f"ckpt-{step}.index", 0)
    state = train.RunState(networks, run, keep=3)
    assert state.restore()
    assert (int(state.step), mark(networks).numpy().max()) == (30, 30)
    state.save()  # as a periodic one: it is none yet
    assert (run / "ckpt-30.index").exists()


@pytest.mark.parametrize("record", [None, b"", b"\xff\x00not a record"])
def test_lost_record_of_the_checkpoints_does_no_harm(networks, run, record, capfd):
    (run / "checkpoint").unlink() if record is None else (run / "checkpoint").write_bytes(record)
    (run / "ckpt-80_temp").mkdir()  # what a killed process was writing
    (run / "ckpt-80_temp" / "part-00000-of-00001.data-00000-of-00001").write_bytes(b"half")
    state = train.RunState(networks, run, keep=2)
    state.remove_unfinished()
    assert state.restore()
    assert int(state.step) == 60
    state.step.assign(61)
    state.save()
    assert [pix_run.step_of(path) for path in pix_run.list_checkpoints(run)] == [61, 60]
    assert tf.train.latest_checkpoint(run).endswith("ckpt-61")
    assert not list(run.glob("*_temp"))
    assert capfd.readouterr().err == ""


def test_no_whole_checkpoint_is_an_error_and_nothing_is_overwritten(networks, run):
    for path in [*run.glob("*.index"), *run.glob("best/*.index")]:
        os.truncate(path, 10)
    before = {path: content for path, content in contents(run).items() if path.name != "checkpoint"}
    state = train.RunState(networks, run, keep=3)
    with pytest.raises(pix_run.RunError, match=r"ckpt-60: damaged, or of another model \(.*\), and 3 older ones too"):
        state.restore()
    assert before.items() <= contents(run).items()


def test_synthesis_takes_what_is_whole_and_says_so(project, generator_run, capsys):
    replace_by(generator_run / "best" / "ckpt-30.data-00000-of-00001", b"truncated")
    photo = "data/UT-FSOCTA-v1/cropped/fundus/disc/1_OD.png"
    assert gen.main([photo]) == 0
    printed = capsys.readouterr().out
    assert "best/ckpt-30: damaged" in printed
    assert "Weights: training_checkpoints/x/ckpt-60" in printed
    assert gen.main([photo, "--weights", "best"]) == 2
    assert re.fullmatch(r"pix_pix_gen.py: error: \S+best/ckpt-30: damaged.*\n", capsys.readouterr().err)


def test_weights_that_are_not_finite_are_never_saved(networks, run):
    state = train.RunState(networks, run, keep=3)
    state.restore()
    state.step.assign(61)
    mark(networks).assign(np.full(mark(networks).shape, np.nan))
    for save in (state.save, state.save_best):
        with pytest.raises(pix_run.RunError, match="is not finite after step 61: not saved"):
            save()
    assert not list(run.rglob("ckpt-61*"))
    assert state.restore()


def test_prediction_that_is_not_finite_stops(capsys):
    generator = gen.Generator(3, (None, None), 1)
    generator.trainable_variables[0].assign(np.full(generator.trainable_variables[0].shape, np.nan))
    with pytest.raises(pix_run.RunError, match="predicted OCT-A is not finite: the weights are damaged"):
        gen.Synthesiser(generator).predict(np.full((64, 64, 3), 99, np.uint8), np.ones((64, 64), bool))


# --- killed, and stopped ---------------------------------------------------------------------------------------------


def test_killed_runs_go_on_and_equal_an_unbroken_one(project):
    options = [*NEW_RUN, "--epochs", "6", "--warm-up", "1"]  # the generator alone is soon built
    killed = start(project, [*options, "--name", "killed"])
    for line in killed.stdout:  # before there is any checkpoint
        if line.startswith("Run:"):
            killed.kill()
    assert (killed.wait(), list(Path("training_checkpoints/killed").glob("*.index"))) == (-signal.SIGKILL, [])
    resume = ["--resume", "training_checkpoints/killed"]
    writing = start(project, resume)
    assert kill_while_writing(writing, Path("training_checkpoints"), 0.05)
    assert "has no checkpoint yet: starting at its beginning" in writing.stdout.read()
    assert train.main(resume) == 0
    assert train.main([*options, "--name", "whole"]) == 0
    for place in ("", "best"):
        assert different_values(f"training_checkpoints/whole/{place}", f"training_checkpoints/killed/{place}") == []
    metrics = [Path(f"logs/fit/{name}/metrics.csv").read_text() for name in ("whole", "killed")]
    assert metrics[0] == metrics[1]


def test_second_signal_ends_at_once_and_harms_no_checkpoint(project):
    process = start(project, [*NEW_RUN, "--epochs", str(EPOCHS), "--warm-up", "1", "--name", "x"])
    validated = 0
    for line in process.stdout:
        validated += "validation:" in line
        if validated == 2:
            break
    folder = Path("training_checkpoints/x")
    before = [path for path in folder.rglob("*.index")]
    process.send_signal(signal.SIGINT)
    for line in process.stdout:
        if "Once more to stop without saving" in line:
            break
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == -signal.SIGINT
    process.stdout.close()
    assert before
    left = pix_run.list_checkpoints(folder) + pix_run.list_checkpoints(folder / "best")
    whole = [path for path in left if os.path.exists(f"{path}.index")]
    assert whole
    for path in whole:
        reader = tf.train.load_checkpoint(path)
        assert all(
            np.isfinite(reader.get_tensor(name)).all()
            for name in reader.get_variable_to_shape_map()
            if "trainable_variables" in name
        )


# --- two runs at once ------------------------------------------------------------------------------------------------


def test_two_runs_of_one_second_have_folders_of_their_own(project, monkeypatch):
    class OneMoment(train.datetime):
        @classmethod
        def now(cls):
            return cls(2023, 9, 18, 12, 0, 0)

    monkeypatch.setattr(train, "datetime", OneMoment)
    names = [train.claim_folders(replace(SETTINGS, name=None), "0").name for _ in range(3)]
    assert names == ["20230918-120000", "20230918-120000-2", "20230918-120000-3"]
    assert all(Path("logs/fit", name).is_dir() and Path("training_checkpoints", name).is_dir() for name in names)


HOLD = """import sys, time, filelock
lock = filelock.FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_run_that_another_process_trains_is_refused(project, run, capsys):
    train.write_run(run, SETTINGS, train.load_run_data(SETTINGS, verbose=False).digest)
    before = contents(run)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run / ".lock")], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    assert train.main(["--resume"]) == 2
    assert capsys.readouterr().err == (
        "pix_pix_train.py: error: training_checkpoints/x: another process trains this run; wait for it, or start "
        "another run\n"
    )
    assert before.items() <= contents(run).items()
    holder.kill()  # and with the process its hold is gone
    holder.communicate()
    with pix_run.lock(run):
        pass


# --- a full disk, and folders that cannot be written -----------------------------------------------------------------


def test_checkpoint_that_finds_no_room_leaves_the_ones_before(networks, run):
    state = train.RunState(networks, run, keep=3)
    state.restore()
    before = {path: content for path, content in contents(run).items() if path.name != "checkpoint"}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    state.step.assign(80)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))  # bytes; a checkpoint has more
    try:
        for save in (state.save, state.save_best):
            with pytest.raises(pix_run.RunError, match=r"the checkpoint of step 80 could not be written \(.*ckpt-80"):
                save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not list(run.rglob("ckpt-80*"))
    assert before.items() <= contents(run).items()
    state.save()  # there is room again
    assert (run / "ckpt-80.index").exists()


def test_full_disk_of_the_logs_is_said(tmp_path, monkeypatch):
    log = train.RunLog(tmp_path / "logs", 0)
    log.scalars({"disc_loss": 1.0}, 1)
    log.flush()
    monkeypatch.setattr(train, "MIN_FREE_BYTES", 1e30)
    with pytest.raises(pix_run.RunError, match=f"{tmp_path / 'logs'}: the disk is full; make room, then --resume"):
        log.flush()


def test_file_that_finds_no_room_is_not_there(tmp_path):
    path = tmp_path / "x.png"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OSError, match=re.escape(str(path))) as caught:
            gen.write_png(np.random.default_rng(0).integers(0, 256, (99, 99), dtype=np.uint8), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("blocked", ["logs", "training_checkpoints"])
def test_folder_that_cannot_be_made_is_one_line_and_leaves_nothing(project, capsys, blocked):
    Path(blocked).write_text("a file, where a folder should be")
    assert train.main(["--patch-size", "64", "--precision", "float32"]) == 2
    assert re.fullmatch(rf"pix_pix_train.py: error: .*{blocked}.*\n", capsys.readouterr().err)
    left = {path.name for path in project.iterdir()} - {"data", blocked}
    assert left <= {"logs", "training_checkpoints"}
    assert not [path for name in left for path in Path(name).rglob("*") if path.name != "fit"]


def test_metrics_of_another_program_are_refused(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step\n1,one\n")
    with pytest.raises(pix_run.RunError, match=r"metrics.csv: damaged .*; move it away, then --resume"):
        train.RunLog(tmp_path, 3)


# --- what comes from someone else ------------------------------------------------------------------------------------


class Bomb:
    """What a pickle would run."""

    def __reduce__(self):
        return os.mkdir, ("exploded",)


def hostile_settings():
    settings = asdict(SETTINGS)
    code = "__import__('os').mkdir('exploded')"
    return {
        "code as a number": settings | {"patch_size": code},
        "code as a choice": settings | {"upsampling": code},
        "code as a precision": settings | {"precision": code},
        "an object": settings | {"data": {"class_name": "Lambda", "config": {"function": code}}},
        "a huge patch": settings | {"patch_size": 64 * 10**9},
        "channels without end": settings | {"octa_channels": 10**12},
        "subjects without end": settings | {"test_subjects": "1-999999999"},
        "a nested list": settings | {"seed": [[[]]]},
    }


@pytest.mark.parametrize("settings", hostile_settings().values(), ids=hostile_settings())
def test_hostile_settings_are_refused_and_nothing_is_executed(project, generator_run, capsys, settings):
    run = generator_run
    replace_by(run / "run.json", json.dumps({"settings": settings, "data_digest": "0"}).encode())
    photo = "data/UT-FSOCTA-v1/cropped/fundus/disc/1_OD.png"
    for program, options in (
        (train, ["--resume"]),
        (gen, [photo, "--run", str(run)]),
        (evaluate, ["--run", str(run), "--data", "data"]),
    ):
        assert program.main(options) == 2
        error = capsys.readouterr().err
        assert re.fullmatch(rf"{program.PROGRAM}: error: .*run.json: damaged, or not of this program.*\n", error)
    assert not Path("exploded").exists()


def test_hostile_checkpoints_are_refused_and_nothing_is_executed(project, generator_run, capsys):
    for path in [*generator_run.rglob("ckpt-*"), *generator_run.rglob("checkpoint")]:
        replace_by(path, pickle.dumps(Bomb()))
    photo = "data/UT-FSOCTA-v1/cropped/fundus/disc/1_OD.png"
    assert gen.main([photo]) == 2
    assert re.fullmatch(r"pix_pix_gen.py: error: .*damaged, or of another model.*\n", capsys.readouterr().err)
    assert not Path("exploded").exists()
    assert not Path("synthetic_octa").exists() or not list(Path("synthetic_octa").iterdir())


def test_run_name_cannot_lead_out_of_the_logs(run):
    settings = asdict(SETTINGS) | {"name": "../../../outside"}
    (run / "run.json").write_text(json.dumps({"settings": settings, "data_digest": "0"}))
    with pytest.raises(pix_run.RunError, match=r"damaged, or .* must be a plain folder name"):
        pix_run.read_run(run)
