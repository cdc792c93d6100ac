"""One file of weights: what it holds, who uses it, and what is refused."""

import os
import re
import shutil
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import fake_fundus
from PIL import Image

import pix_pix_gen
import pix_pix_train
import run.weights
from pix_discriminator import Discriminator
from pix_generator import Generator
from run.checkpoints import RunError, newest_run, read_run, step_of, write_run
from run.new_run import settings_of_resumed_run
from run.predict import load_predictor
from run.settings import Settings
from run.weights import copy_weights, load_weights, made_from, run_to_use, start_from, write_weights

STEP = 7


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the run `run` of one checkpoint, and the same generator as one file in `file`."""
    return write_both(tmp_path_factory.mktemp("runs"))


def write_both(folder: Path, **changes) -> Path:
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    settings = Settings(patch_size=64, precision="float32", name="run", data="simulated", input_noise=0.03, **changes)
    generator = Generator(3, (None, None), settings.target_channels)
    tf.train.Checkpoint(generator=generator).write(str(folder / "run" / f"ckpt-{STEP}"))
    write_run(folder / "run", settings, "0")
    write_weights(generator, folder / "run", str(folder / "run" / f"ckpt-{STEP}"), folder / "file")
    return folder


@pytest.fixture
def shipped(runs, tmp_path, monkeypatch):
    """An empty folder to run in, and the folder of the supplied weights."""
    monkeypatch.setattr(run.weights, "SHIPPED", tmp_path / "program" / "weights")
    shutil.copytree(runs / "file", tmp_path / "program" / "weights")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "program" / "weights"


def file_of(folder: Path) -> Path:
    return next(folder.glob("*.npz"))


def predicted(run: Path) -> np.ndarray:
    predictor, _ = load_predictor(run, None, read_run(run)[0])
    image = fake_fundus(np.random.default_rng(1), 128, 128), np.ones((128, 128), bool)
    return np.dstack([predictor.predict(*image), predictor.predict_vessels(*image)])


@pytest.mark.parametrize("vessel_output", [False, True])
def test_prediction_from_one_file_is_that_of_the_checkpoint(tmp_path, vessel_output):
    runs = write_both(tmp_path, vessel_output=vessel_output)
    assert np.abs(predicted(runs / "file") - predicted(runs / "run")).max() < 2e-3


def test_one_file_keeps_settings_and_step_of_its_run(runs):
    assert read_run(runs / "file")[:3] == read_run(runs / "run")[:3]
    assert step_of(str(file_of(runs / "file"))) == STEP


def test_supplied_weights_are_used_without_a_run(shipped):
    assert run_to_use(None) == (shipped, "no run in training_checkpoints/")


def own_run(name: str, data: str = "pairs.csv", done: int | None = 2, age: int = 0) -> Path:
    """A run of two epochs, so many done, some seconds old, with one checkpoint, which is damaged if `done` is None."""
    folder = Path("training_checkpoints", name)
    tf.train.Checkpoint(epoch=tf.Variable(done or 0, dtype=tf.int64)).write(str(folder / f"ckpt-{STEP}"))
    if done is None:
        (folder / f"ckpt-{STEP}.index").write_bytes(b"truncated")
    write_run(folder, Settings(patch_size=64, precision="float32", name=name, data=data, epochs=2), "0")
    for path in folder.iterdir():
        os.utime(path, (time.time() - age,) * 2)
    return folder


def test_newest_finished_run_on_real_pairs_comes_before_the_supplied_weights(shipped):
    own_run("older", age=30)
    folder = own_run("newer", age=20)
    own_run("stopped", done=1, age=10)
    (own_run("broken") / "run.json").write_text("no JSON")
    chosen, why = run_to_use(None)
    assert chosen == folder
    assert "training_checkpoints/stopped has completed 1 of 2 epochs" in why
    assert "training_checkpoints/broken cannot be used (training_checkpoints/broken/run.json: damaged" in why


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        ({"data": "simulated"}, "was trained on simulated retinas alone"),
        ({"done": 1}, "has completed 1 of 2 epochs"),
        ({"done": None}, "cannot be used ("),
    ],
    ids=["simulated retinas", "stopped early", "damaged"],
)
def test_other_runs_never_replace_the_supplied_weights(shipped, run, reason):
    folder = own_run("a run", **run)
    used, why = run_to_use(None)
    assert used == shipped
    assert why.startswith(f"{folder} {reason}")


def test_run_on_a_folder_of_simulated_retinas_is_no_run_on_real_pairs(shipped, small_data):
    folder = shutil.copytree(small_data, "set")
    Path(folder, "UT-FSOCTA-v1/SIMULATED.txt").touch()
    own_run("a run", data=folder)
    shutil.rmtree(folder)
    assert run_to_use(None)[0] == shipped


def test_resume_without_a_folder_means_the_newest_run_of_any_kind(shipped, pairs_table):
    own_run("finished", age=20)
    own_run("newest", data=str(pairs_table), done=1)
    assert settings_of_resumed_run({}, "")[0].name == "newest"


def test_a_run_that_is_named_comes_before_all(shipped):
    assert run_to_use("other") == (Path("other"), "")


def test_synthesis_reports_in_one_line_which_weights_it_uses_and_why(shipped, capsys):
    own_run("mine", done=1)
    Image.fromarray(fake_fundus(np.random.default_rng(0), 70, 70)).save("a.png")
    assert pix_pix_gen.main(["a.png"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Weights: ")]
    assert line.startswith(f"Weights: {file_of(shipped)} (supplied weights")
    assert "training_checkpoints/mine has completed 1 of 2 epochs" in line


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("fault", [damage, Path.unlink])
def test_damaged_or_missing_file_says_how_to_get_it_back(shipped, refused, fault):
    file = file_of(shipped)
    fault(file)
    Image.fromarray(fake_fundus(np.random.default_rng(0), 70, 70)).save("a.png")
    error = refused(pix_pix_gen, "a.png")
    assert str(file) in error
    assert "git checkout -- weights" in error


@pytest.mark.parametrize(
    ("channels", "weights", "named"), [(4, None, "of another model"), (1, "last", "drop --weights last")]
)
def test_file_of_another_model_and_last_weights_of_one_file_are_refused(runs, channels, weights, named):
    with pytest.raises(RunError, match=named):
        load_weights(Generator(3, (None, None), channels), runs / "file", weights)


def test_one_file_is_no_newest_run(shipped):
    with pytest.raises(RunError, match="no run in"):
        newest_run(shipped.parent)


def test_one_file_cannot_be_resumed(shipped, refused):
    assert "--init-from" in refused(pix_pix_train, "--resume", str(shipped))


def test_fine_tuning_starts_from_the_weights_of_one_file(shipped, runs):
    generator, discriminator = Generator(3, (None, None), 1), Discriminator(3, 1, (64, 64))
    untrained = [variable.numpy() for variable in discriminator.variables]
    start_from(Settings(init_from=str(shipped)), generator, discriminator)
    expected = Generator(3, (None, None), 1)
    load_weights(expected, runs / "file")
    for one, other in zip(generator.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert all(np.array_equal(one, other) for one, other in zip(discriminator.variables, untrained, strict=True))


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_vessel_output_starts_as_a_copy_of_the_octa_and_can_be_dropped(before, after):
    source, generator = (Generator(3, (None, None), channels) for channels in (before, after))
    copy_weights(source, generator)
    image = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    octa, output = source(image)[..., :1].numpy(), generator(image).numpy()
    np.testing.assert_allclose(output, np.repeat(octa, after, axis=-1), atol=1e-6)


@pytest.mark.parametrize("name", ["run", "file"])
def test_weights_are_described_alike_from_every_folder(runs, monkeypatch, name):
    texts = set()
    for folder, path in ((runs, Path(name)), (runs / name, Path()), (runs / name, runs / name)):
        monkeypatch.chdir(folder)
        texts.add(made_from(path, load_weights(Generator(3, (None, None), 1), path)))
    assert re.fullmatch(rf"{name}/(best/)?ckpt-\d+(\.npz)? \([0-9a-f]{{8}}\), float32, version [\d.]+", texts.pop())
    assert not texts


def test_other_weights_of_the_same_name_are_described_otherwise(tmp_path):
    texts = set()
    for content in ("one", "other"):
        (tmp_path / "ckpt-1.index").write_text(content)
        texts.add(made_from(tmp_path, str(tmp_path / "ckpt-1")))
    assert len(texts) == 2
