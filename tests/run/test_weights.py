"""One file of weights: what it holds, who uses it, and what is refused."""

import json
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SMALL, fake_fundus
from PIL import Image

import pix_pix_gen
import pix_pix_train
import run.weights as pix_weights
from pix_generator import Generator
from run.checkpoints import RunError, read_run, save, settings_to_resume, step_of, write_run
from run.predict import load_predictor
from run.settings import Settings

STEP = 7
ENTRY = {"file": f"ckpt-{STEP}.npz", "sha256": ""}  # of run.json, for weights that are not loaded


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the run `run` of one checkpoint, and the same generator as one file in `file`."""
    folder = tmp_path_factory.mktemp("runs")
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    generator = Generator(3, (None, None), 1)
    save(tf.train.Checkpoint(generator=generator), folder / "run", STEP, keep=1)
    settings = Settings(patch_size=64, precision="float32", name="run", data="simulated", input_noise=0.03)
    write_run(folder / "run", settings, "0")
    pix_weights.write_weights(generator, folder / "run", str(folder / "run" / f"ckpt-{STEP}"), folder / "file")
    return folder


@pytest.fixture
def shipped(runs, tmp_path, monkeypatch):
    """An empty folder to run in, and the folder of the supplied weights."""
    monkeypatch.setattr(pix_weights, "SHIPPED", tmp_path / "program" / "weights")
    shutil.copytree(runs / "file", tmp_path / "program" / "weights")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "program" / "weights"


def file_of(folder: Path) -> Path:
    return next(folder.glob("*.npz"))


def octa(run: Path) -> np.ndarray:
    predictor, _ = load_predictor(run, None, read_run(run)[0])
    fundus = fake_fundus(np.random.default_rng(1), 128, 128)
    return predictor.predict(fundus, np.ones((128, 128), bool))


def test_prediction_from_one_file_is_that_of_the_checkpoint(runs):
    assert np.abs(octa(runs / "file") - octa(runs / "run")).max() < 2e-3


def test_one_file_has_at_most_60_mb(runs):
    assert file_of(runs / "file").stat().st_size <= 60e6


def test_one_file_keeps_the_settings_of_its_run(runs):
    assert read_run(runs / "file") == read_run(runs / "run")


def test_one_file_keeps_the_step_of_its_checkpoint(runs):
    assert step_of(str(file_of(runs / "file"))) == STEP


def test_writing_again_leaves_one_file(runs, tmp_path):
    shutil.copytree(runs / "file", tmp_path / "file")
    file_of(tmp_path / "file").rename(tmp_path / "file" / "ckpt-1.npz")
    pix_weights.write_weights(Generator(3, (None, None), 1), runs / "run", f"ckpt-{STEP}", tmp_path / "file")
    assert [path.name for path in (tmp_path / "file").glob("*.npz")] == [f"ckpt-{STEP}.npz"]


def test_weights_that_come_with_the_program_are_used_without_a_run(shipped):
    assert pix_weights.run_to_use(None) == (shipped, "no run in training_checkpoints/")


def own_run(name: str, data: str = "pairs.csv", done: int | None = 2, age: int = 0) -> Path:
    """A run of two epochs with one checkpoint, of which so many are done, that is some seconds old."""
    folder = Path("training_checkpoints", name)
    state = {} if done is None else {"epoch": tf.Variable(done, dtype=tf.int64)}
    save(tf.train.Checkpoint(**state, step=tf.Variable(STEP)), folder, STEP, keep=1)
    write_run(folder, Settings(patch_size=64, precision="float32", name=name, data=data, epochs=2), "0")
    for path in folder.iterdir():
        os.utime(path, (time.time() - age,) * 2)
    return folder


def test_a_finished_run_on_real_pairs_comes_before_the_supplied_weights(shipped):
    folder = own_run("mine")
    assert pix_weights.run_to_use(None) == (folder, "the newest finished run on real pairs")


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        ({"data": "simulated"}, "was trained on simulated retinas alone"),
        ({"done": 1}, "has completed 1 of 2 epochs"),
        ({"done": None}, "has no intact checkpoint"),
    ],
    ids=["simulated retinas", "stopped early", "of another kind"],
)
def test_other_runs_never_replace_the_supplied_weights(shipped, run, reason):
    folder = own_run("a run", **run)
    assert pix_weights.run_to_use(None) == (shipped, f"{folder} {reason}: --run '{folder}' uses it")


def test_newest_finished_run_on_real_pairs_is_used_whatever_comes_after_it(shipped):
    own_run("older", age=30)
    folder = own_run("newer", age=20)
    own_run("stopped", done=1, age=10)
    chosen, why = pix_weights.run_to_use(None)
    assert chosen == folder
    assert "training_checkpoints/stopped has completed 1 of 2 epochs" in why


def test_run_resumed_for_more_epochs_is_not_finished(shipped):
    folder = own_run("mine")
    write_run(folder, replace(read_run(folder)[0], epochs=9), "0")
    assert pix_weights.run_to_use(None)[0] == shipped


def test_one_file_of_weights_from_real_pairs_is_a_finished_run(shipped, runs):
    shutil.copytree(runs / "file", "training_checkpoints/file")
    write_run(Path("training_checkpoints/file"), replace(read_run(runs / "file")[0], data="pairs.csv"), "0", (), ENTRY)
    assert pix_weights.run_to_use(None)[0] == Path("training_checkpoints/file")


@pytest.mark.parametrize("suffix", ["index", "data-00000-of-00001"])
def test_run_with_a_damaged_checkpoint_is_judged_by_an_older_one(shipped, suffix):
    folder = own_run("mine")
    for path in folder.glob("ckpt-7.*"):
        shutil.copy(path, path.with_name(path.name.replace("7", "8", 1)))
    (folder / f"ckpt-8.{suffix}").write_bytes(b"truncated")
    assert pix_weights.run_to_use(None)[0] == folder


def test_damaged_run_is_named_and_the_others_are_looked_at(shipped):
    folder = own_run("mine", age=10)
    (own_run("broken") / "run.json").write_text("no JSON")
    chosen, why = pix_weights.run_to_use(None)
    assert chosen == folder
    assert "training_checkpoints/broken/run.json: damaged" in why


def test_many_runs_that_are_not_used_are_counted(shipped):
    for number in range(5):
        own_run(f"run{number}", done=1, age=number)
    assert pix_weights.run_to_use(None)[1].endswith("and 3 more runs")


def test_resume_without_a_folder_means_the_newest_run_of_any_kind(shipped):
    own_run("finished", age=20)
    own_run("sample", data="simulated", done=1)
    settings, _ = settings_to_resume({}, "")
    assert settings.name == "sample"


def test_a_run_that_is_named_comes_before_all(shipped):
    assert pix_weights.run_to_use("other") == (Path("other"), "")


def test_no_weights_at_all_is_an_error_that_says_to_train(shipped):
    shutil.rmtree(shipped)
    with pytest.raises(RunError, match="train one with pix_pix_train"):
        pix_weights.run_to_use(None)


def test_synthesis_says_in_one_line_which_weights_it_uses_and_why(shipped, capsys):
    own_run("mine", done=1)
    Image.fromarray(fake_fundus(np.random.default_rng(0), 70, 70)).save("a.png")
    assert pix_pix_gen.main(["a.png"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Weights: ")]
    assert line.startswith(f"Weights: {file_of(shipped)} (supplied weights")
    assert "training_checkpoints/mine has completed 1 of 2 epochs: --run training_checkpoints/mine uses it" in line


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(("fault", "named"), [(damage, "damaged"), (Path.unlink, "cannot be read")])
def test_damaged_or_missing_file_says_how_to_get_it_back(shipped, refused, fault, named):
    file = file_of(shipped)
    fault(file)
    Image.fromarray(fake_fundus(np.random.default_rng(0), 70, 70)).save("a.png")
    error = refused(pix_pix_gen, "a.png")
    assert str(file) in error
    assert named in error
    assert "git checkout -- weights" in error


def test_file_of_another_model_is_refused(runs):
    with pytest.raises(RunError, match="of another model"):
        pix_weights.load_weights(Generator(3, (None, None), 4), runs / "file")


def test_file_that_is_no_archive_is_refused(runs, tmp_path):
    shutil.copytree(runs / "run", tmp_path / "run")
    shutil.copytree(runs / "file", tmp_path / "file")
    content = b"not an archive"
    file_of(tmp_path / "file").write_bytes(content)
    run = json.loads((tmp_path / "file" / "run.json").read_text())
    run["weights"]["sha256"] = pix_weights.hashlib.sha256(content).hexdigest()
    (tmp_path / "file" / "run.json").write_text(json.dumps(run))
    with pytest.raises(RunError, match="not a file of weights"):
        pix_weights.load_weights(Generator(3, (None, None), 1), tmp_path / "file")


def test_last_weights_of_one_file_are_refused(runs):
    with pytest.raises(RunError, match="drop --weights last"):
        pix_weights.load_weights(Generator(3, (None, None), 1), runs / "file", "last")


def test_one_file_cannot_be_resumed(shipped, refused):
    assert "--init-from" in refused(pix_pix_train, "--resume", str(shipped))


def test_fine_tuning_keeps_the_weights_and_their_noise(shipped, dataset):
    options = [*SMALL, "--data", str(dataset), "--epochs", "1", "--mix", "0", "--learning-rate", "1e-30"]
    assert pix_pix_train.main([*options, "--init-from", str(shipped), "--name", "tuned"]) == 0
    assert np.abs(octa(Path("training_checkpoints/tuned")) - octa(shipped)).max() < 1e-6
    assert read_run(Path("training_checkpoints/tuned"))[0].input_noise == 0.03


@pytest.mark.parametrize("name", ["run", "file"])
def test_weights_are_described_alike_from_every_folder(runs, monkeypatch, name):
    texts = set()
    for folder, run in ((runs, Path(name)), (runs / name, Path()), (runs / name, runs / name)):
        monkeypatch.chdir(folder)
        path = pix_weights.load_weights(Generator(3, (None, None), 1), run)
        texts.add(pix_weights.made_from(run, path))
    assert re.fullmatch(rf"{name}/(best/)?ckpt-\d+(\.npz)? \([0-9a-f]{{8}}\), float32, version [\d.]+", texts.pop())
    assert not texts


def test_other_weights_of_the_same_name_are_described_otherwise(tmp_path):
    texts = set()
    for content in ("one", "other"):
        (tmp_path / "ckpt-1.index").write_text(content)
        texts.add(pix_weights.made_from(tmp_path, str(tmp_path / "ckpt-1")))
    assert len(texts) == 2
