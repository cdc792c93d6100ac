"""One file of weights: what it holds, who uses it, and what is refused."""

import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SMALL, fake_fundus
from PIL import Image

import pix_pix_gen
import pix_pix_train
import pix_weights
from pix_generator import Generator
from pix_predict import load_predictor
from pix_run import RunError, read_run, save, step_of, write_run
from pix_settings import Settings

STEP = 7


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the run `run` of one checkpoint, and the same generator as one file in `file`."""
    folder = tmp_path_factory.mktemp("runs")
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    generator = Generator(3, (None, None), 1)
    save(tf.train.Checkpoint(generator=generator), folder / "run", STEP, keep=1)
    settings = Settings(patch_size=64, precision="float32", name="run", data="phantom", input_noise=0.03)
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
    assert pix_weights.run_to_use(None) == shipped


def test_a_run_of_one_s_own_comes_first(shipped, runs):
    shutil.copytree(runs / "run", "training_checkpoints/mine")
    assert pix_weights.run_to_use(None) == Path("training_checkpoints/mine")


def test_a_run_that_is_named_comes_before_all(shipped):
    assert pix_weights.run_to_use("other") == Path("other")


def test_no_weights_at_all_is_an_error_that_says_to_train(shipped):
    shutil.rmtree(shipped)
    with pytest.raises(RunError, match="train one with pix_pix_train"):
        pix_weights.run_to_use(None)


def test_synthesis_names_the_weights_that_come_with_the_program(shipped, capsys):
    Image.fromarray(fake_fundus(np.random.default_rng(0), 70, 70)).save("a.png")
    assert pix_pix_gen.main(["a.png"]) == 0
    assert f"Weights: {file_of(shipped)} (supplied weights" in capsys.readouterr().out


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
