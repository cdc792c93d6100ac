"""Prediction, every kind of input, what is written where, and every rejected input by its message."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import fake_fundus
from PIL import Image

import pix_pix_gen as gen
import pix_pix_train as train
from dataset_load_mod import field_of_view, reflect_to_multiple
from pix_generator import Generator
from vessel_metrics import vessel_map

PROJECT = Path(__file__).resolve().parents[1]


def everywhere(fundus):
    return np.ones(fundus.shape[:2], dtype=bool)


def round_field(size):
    """A photograph (size, size, 3), uint8: a bright disc on black."""
    rows, columns = np.ogrid[:size, :size]
    inside = np.hypot(rows - size / 2, columns - size / 2) < 0.45 * size
    return fake_fundus(np.random.default_rng(3), size, size) * inside[..., np.newaxis].astype(np.uint8)


def grey_levels(path):
    return np.asarray(Image.open(path)).astype(int)


# --- prediction ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def synthesiser():
    """An untrained generator with weights large enough that its norm layers have work to do."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")
    return gen.Synthesiser(Generator(3, (None, None), 1))


@pytest.fixture(scope="module")
def fundus():
    return fake_fundus(np.random.default_rng(1), 150, 100)


def test_prediction_has_the_image_s_size_and_changes_nothing(synthesiser, fundus):
    before = [variable.numpy().copy() for variable in synthesiser.generator.variables]
    octa = synthesiser.predict(fundus, everywhere(fundus))
    assert octa.shape == (150, 100, 1)
    assert octa.dtype == np.float32
    assert 0 <= octa.min() < octa.max() <= 1
    assert octa.std() > 1e-3
    assert np.array_equal(octa, synthesiser.predict(fundus, everywhere(fundus)))
    after = [variable.numpy() for variable in synthesiser.generator.variables]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_norm_layers_take_what_training_sees(synthesiser):
    """One pass gives what training computes on the image alone, but for dropout; and so do its statistics again."""
    image = np.random.default_rng(2).uniform(-1, 1, (1, 128, 64, 3)).astype(np.float32)
    octa, statistics = synthesiser.with_own_statistics(image)
    generator = keras.models.clone_model(synthesiser.generator)
    generator.set_weights(synthesiser.generator.get_weights())
    with gen.without_dropout(generator):
        expected = generator(image, training=True)
    assert np.abs(octa - expected).max() < 1e-5
    assert np.abs(octa - synthesiser.with_statistics(image, statistics)).max() < 1e-4
    assert np.abs(octa - synthesiser.generator(image, training=False)).max() > 1e-2  # the moving averages lag
    rates = [layer.rate for layer in gen.layers_of(synthesiser.generator, keras.layers.Dropout)]
    assert rates == [0.5, 0.5]


def test_patches_do_not_depend_on_their_batch_unless_published(synthesiser, fundus):
    def predict(batch_size, published):
        return synthesiser.predict_by_patches(fundus, everywhere(fundus), 64, 4, batch_size, published)

    images = [predict(batch_size, published=False) for batch_size in (1, 7, 32)]
    assert images[0].shape == (150, 100, 1)
    for image in images[1:]:
        assert np.abs(image - images[0]).max() < 1e-4
    assert np.abs(predict(7, published=True) - predict(32, published=True)).max() > 1e-2


@pytest.mark.parametrize(
    ("shape", "upsampling"), [((1100, 300), "transposed"), ((590, 570), "transposed"), ((590, 570), "resize")]
)
def test_tiles_give_what_one_pass_gives(synthesiser, shape, upsampling):
    """Everywhere, given the same statistics; a tile of 576 px keeps no more than its innermost 320 px."""
    if upsampling == "resize":
        synthesiser = gen.Synthesiser(Generator(3, (None, None), 1, upsampling))
    fundus = fake_fundus(np.random.default_rng(4), *shape)
    whole = reflect_to_multiple(fundus, 64)
    assert whole.shape[0] * whole.shape[1] > 576**2
    one_pass = synthesiser.with_statistics(gen.to_model(whole)[np.newaxis], synthesiser.statistics(whole, 576))
    expected = one_pass.numpy()[0, : shape[0], : shape[1]] * 0.5 + 0.5
    tiles = synthesiser.predict(fundus, everywhere(fundus), tile=576)
    assert tiles.shape == (*shape, 1)
    assert np.abs(tiles - expected).max() < 1e-4


def test_what_the_camera_left_black_has_no_influence(synthesiser):
    fundus = round_field(160)
    fov = field_of_view(fundus)
    octa = synthesiser.predict(fundus, fov)
    assert not octa[~fov].any()
    assert octa[fov].all()
    grey = np.where(fov[..., np.newaxis], fundus, 90).astype(np.uint8)
    assert np.array_equal(octa, synthesiser.predict(grey, fov))


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a small trained run in training_checkpoints/small."""
    folder = tmp_path_factory.mktemp("trained")
    random = np.random.default_rng(0)
    for kind in ("fundus", "octa"):
        (folder / "UT-FSOCTA-v1" / "cropped" / kind / "disc").mkdir(parents=True)
        for name in ("1_OD", "26_OD", "31_OD"):
            image = Image.fromarray(fake_fundus(random, 90, 80))
            image.save(folder / "UT-FSOCTA-v1" / "cropped" / kind / "disc" / f"{name}.png")
    (folder / "UT-FSOCTA-v1" / "fov_45" / "fundus").mkdir(parents=True)
    Image.fromarray(round_field(130)).save(folder / "UT-FSOCTA-v1" / "fov_45" / "fundus" / "31_OS.jpg")
    before = Path.cwd()
    os.chdir(folder)
    options = [
        "--warm-up",
        "1",
        "--patch-size",
        "64",
        "--batch-size",
        "2",
        "--precision",
        "float32",
        "--epochs",
        "2",
        "--name",
        "small",
    ]
    try:
        assert train.main([*options, "--upsampling", "resize"]) == 0  # that it is not the default is found in run.json
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def folder(trained, tmp_path, monkeypatch):
    """An empty folder to run in, with a link to the trained run."""
    (tmp_path / "training_checkpoints").symlink_to(trained / "training_checkpoints")
    (tmp_path / "data").symlink_to(trained)
    (tmp_path / "photos" / "below").mkdir(parents=True)
    Image.fromarray(round_field(100)).save(tmp_path / "photos" / "a.png")
    Image.fromarray(fake_fundus(np.random.default_rng(5), 70, 130)).save(tmp_path / "photos" / "below" / "b.jpg")
    (tmp_path / "photos" / ".hidden.png").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def test_folder_keeps_its_tree_and_photographs_their_size(folder, capsys):
    assert gen.main(["photos", "--vessels", "--figure"]) == 0
    assert written("synthetic_octa") == [
        *("a.png", "a_figure.png", "a_vessels.png"),
        *("below/b.png", "below/b_figure.png", "below/b_vessels.png", "densities.csv"),
    ]
    assert "Weights: training_checkpoints/small/best/ckpt-" in capsys.readouterr().out
    fundus = round_field(100)
    fov = field_of_view(fundus)
    with Image.open("synthetic_octa/a.png") as image:
        assert (image.mode, image.size) == ("L", (100, 100))
    octa = grey_levels("synthetic_octa/a.png")
    assert not octa[~fov].any()
    assert octa[fov].std() > 1
    assert Image.open("synthetic_octa/below/b.png").size == (130, 70)

    vessels = grey_levels("synthetic_octa/a_vessels.png") > 0
    assert np.mean(vessels == vessel_map(octa / 255, fov)) > 0.99  # 8 bits round the one that it was made from
    rows = list(csv.DictReader(Path("synthetic_octa/densities.csv").read_text().splitlines()))
    assert [row["path"] for row in rows] == ["a.png", "below/b.png"]
    assert int(rows[0]["vessel_px"]) == vessels.sum()
    assert int(rows[0]["field_px"]) == fov.sum()
    assert float(rows[0]["vessel_density"]) == pytest.approx(vessels.sum() / fov.sum(), abs=1e-6)
    assert Image.open("synthetic_octa/a_figure.png").size[0] > 1000


def test_what_is_there_is_kept_and_what_is_missing_is_made(folder, capsys):
    assert gen.main(["photos", "--vessels"]) == 0
    whole = {name: Path("synthetic_octa", name).read_bytes() for name in written("synthetic_octa")}
    table = Path("synthetic_octa/densities.csv")
    table.write_text(table.read_text()[:-9])  # as an interrupted writer might leave it
    Path("synthetic_octa/a.png").write_text("mine")
    assert gen.main(["photos", "--vessels"]) == 0
    assert "1 of 2 are there already and kept" in capsys.readouterr().out
    assert Path("synthetic_octa/a.png").read_text() == "mine"
    assert table.read_bytes() == whole["densities.csv"]
    assert gen.main(["photos", "--vessels", "--overwrite"]) == 0
    assert {name: Path("synthetic_octa", name).read_bytes() for name in written("synthetic_octa")} == whole


def test_every_kind_of_photograph(folder, capsys):
    random = np.random.default_rng(6)
    fundus = Image.fromarray(fake_fundus(random, 80, 90))
    photos = folder / "kinds"
    photos.mkdir()
    fundus.convert("L").save(photos / "grey.png")
    fundus.convert("RGBA").save(photos / "rgba.png")
    Image.fromarray(np.asarray(fundus.convert("L")).astype(np.uint16) * 257).save(photos / "deep.png")
    fundus.convert("P").save(photos / "palette.png")
    fundus.convert("CMYK").save(photos / "cmyk.jpg")
    fundus.save(photos / "lzw.tif", compression="tiff_lzw")
    Image.new("RGB", (1, 1), (200, 90, 40)).save(photos / "pixel.png")
    Image.fromarray(fake_fundus(random, 100, 2000)).save(photos / "wide.bmp")
    good = {path.name: Image.open(path).size for path in photos.iterdir()}
    (photos / "text.png").write_text("a text that is named like a picture")
    (photos / "cut.png").write_bytes((photos / "rgba.png").read_bytes()[:300])
    (photos / "empty.jpg").write_bytes(b"")
    Image.new("RGB", (90, 90)).save(photos / "black.png")

    assert gen.main(["kinds"]) == 2
    captured = capsys.readouterr()
    failed = [line for line in captured.err.splitlines() if line.startswith("pix_pix_gen.py: error: ")]
    assert [re.search(r"kinds/(\w+\.\w+)", line)[1] for line in failed] == [
        "black.png",
        "cut.png",
        "empty.jpg",
        "text.png",
    ]
    assert "black.png: is dark all over" in failed[0]
    assert "text.png: cannot be read as an image (not an image, or damaged)" in failed[3]
    assert f"{len(good)} written to" in captured.out
    assert written("synthetic_octa") == sorted(f"{Path(name).stem}.png" for name in good)
    for name, size in good.items():
        assert Image.open(f"synthetic_octa/{Path(name).stem}.png").size == size
    assert np.abs(grey_levels("synthetic_octa/grey.png") - grey_levels("synthetic_octa/deep.png")).max() <= 1


def test_table_of_paths(folder):
    Path("photos/below/a.png").write_bytes(Path("photos/a.png").read_bytes())
    Path("photos/list.csv").write_text("eye,path\nOD,a.png\nOS,below/b.jpg\nOS,below/a.png\n,\n")
    assert gen.main(["photos/list.csv", "--output", "out"]) == 0
    assert written("out") == ["a.png", "below/a.png", "below/b.png"]
    Path("photos/below/list.csv").write_text(f"path\n../a.png\n{folder}/photos/below/b.jpg\n")
    assert gen.main(["photos/below/list.csv", "--output", "apart"]) == 0
    assert written("apart") == ["a.png", "b.png"]


def test_photograph_named_twice_is_done_once(folder, capsys):
    assert gen.main(["photos/a.png", "./photos/a.png"]) == 0
    assert "1 written to" in capsys.readouterr().out


def test_output_below_the_input_is_no_input(folder):
    assert gen.main(["photos", "--output", "photos/out"]) == 0
    assert gen.main(["photos", "--output", "photos/out", "--overwrite"]) == 0
    assert written("photos/out") == ["a.png", "below/b.png"]


def test_dataset_gets_the_deposit_s_names(folder, capsys):
    assert gen.main(["--dataset", "data", "--output", "out"]) == 0
    assert written("out") == ["cropped/synthetic_octa/disc/31_OD.png", "fov45/synthetic_octa/31_OS.png"]
    assert Image.open("out/fov45/synthetic_octa/31_OS.png").size == (130, 130)
    assert gen.main(["--dataset", "data", "--split", "all", "--output", "all"]) == 0
    assert len(written("all")) == 4
    (folder / "UT-FSOCTA-v1").symlink_to(folder / "data" / "UT-FSOCTA-v1")  # where the run's data are said to be
    assert gen.main(["--dataset", "--split", "validation", "--output", "validation"]) == 0
    assert written("validation") == ["cropped/synthetic_octa/disc/26_OD.png"]


def test_weights_are_those_asked_for(folder, tmp_path, capsys):
    assert gen.main(["photos/a.png", "--weights", "last", "--output", "last"]) == 0
    assert "Weights: training_checkpoints/small/ckpt-4\n" in capsys.readouterr().out
    run = tmp_path / "run"
    run.mkdir()
    for path in Path("training_checkpoints/small").glob("*.*"):
        (run / path.name).symlink_to(path.resolve())
    (run / "checkpoint").write_text(Path("training_checkpoints/small/checkpoint").read_text())
    assert gen.main(["photos/a.png", "--run", str(run), "--output", "none"]) == 0
    assert f"Weights: {run / 'ckpt-4'}" in capsys.readouterr().out
    assert written("last") == written("none") == ["a.png"]
    assert np.array_equal(grey_levels("last/a.png"), grey_levels("none/a.png"))
    assert gen.main(["photos/a.png", "--run", str(run), "--weights", "best"]) == 2
    assert "holds no best checkpoint" in capsys.readouterr().err


def test_patches_and_the_published_way(folder):
    assert gen.main(["photos/a.png", "--output", "whole"]) == 0
    assert gen.main(["photos/a.png", "--stride", "8", "--output", "patches"]) == 0
    assert gen.main(["photos/a.png", "--published", "--output", "published"]) == 0
    assert gen.main(["photos/a.png", "--published", "--output", "again"]) == 0
    whole, patches, published, again = (
        grey_levels(f"{name}/a.png") for name in ("whole", "patches", "published", "again")
    )
    assert np.corrcoef(whole.ravel(), patches.ravel())[0, 1] > 0.9
    assert not np.array_equal(patches, published)
    assert np.array_equal(published, again)


def test_exported_generator_gives_the_command_s_result_in_a_fresh_process(folder):
    Image.fromarray(fake_fundus(np.random.default_rng(7), 128, 192)).save("eye.png")
    assert gen.main(["eye.png", "--export", "exported"]) == 0
    program = """
import keras, numpy as np, tensorflow as tf
from PIL import Image
fundus = (np.asarray(Image.open("eye.png")).astype("float32") / 127.5 - 1)[None]
model = keras.models.load_model("exported/generator.keras")
np.save("keras.npy", model(fundus, training=False))
saved_model = tf.saved_model.load("exported/saved_model")
np.save("saved_model.npy", saved_model.serve(fundus))
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=folder)
    result = grey_levels("synthetic_octa/eye.png")
    for name in ("keras", "saved_model"):
        octa = np.load(f"{name}.npy")
        assert octa.shape == (1, 128, 192, 1)
        assert np.abs((octa[0, ..., 0] + 1) * 127.5 - result).max() < 0.51  # the rounding to grey levels


def test_interrupted_folder_goes_on(folder):
    photos = folder / "many"
    photos.mkdir()
    for number in range(15):
        Image.fromarray(fake_fundus(np.random.default_rng(number), 300, 300)).save(photos / f"{number:02}.png")
    command = [sys.executable, str(PROJECT / "pix_pix_gen.py"), "many"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not Path("synthetic_octa/01.png").exists():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "stopped; the same command goes on" in errors
    assert "Traceback" not in errors
    first = written("synthetic_octa")
    assert 2 <= len(first) < 15
    assert all(Image.open(f"synthetic_octa/{name}").load() for name in first)
    assert gen.main(["many"]) == 0
    assert len(written("synthetic_octa")) == 15


def test_full_disk_names_the_file_and_leaves_no_half_one(folder, capsys, monkeypatch):
    def full(self, path, **_):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert gen.main(["photos/a.png"]) == 2
    assert "No space left on device: 'synthetic_octa/a.png'" in capsys.readouterr().err
    assert written("synthetic_octa") == []


# --- rejected input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], r"give a photograph, a folder, a CSV table, --dataset or --export"),
        (["nowhere"], r"nowhere: there is no such file or folder"),
        (["empty"], r"empty: holds no photograph"),
        (["photos/no.csv"], r"photos/no.csv: has no column named path"),
        (["photos/void.csv"], r"photos/void.csv: cannot be read as a CSV table"),
        (["photos", "--dataset"], r"INPUT and --dataset: give one of them"),
        (["photos", "--split", "test"], r"--split goes with --dataset"),
        (["--dataset", "nowhere"], r"--dataset nowhere: holds no cropped"),
        (["photos", "--stride", "0"], r"--stride 0: must be at least 1"),
        (["photos", "--stride", "65"], r"--stride 65: at most the run's patch, 64 px"),
        (["photos", "--batch-size", "4"], r"--batch-size goes with --stride or --published"),
        (["photos", "--run", "nowhere"], r"nowhere: is no run"),
        (["photos", "--run", "foreign"], r"foreign/run.json: damaged, or not of this program"),
        (["photos", "--weights", "first"], r"argument --weights: invalid choice: 'first'"),
        (["photos/a.png", "photos/same/a.png"], r"photos/a.png and photos/same/a.png would both be written to"),
        (["photos", "--output", "photos"], r"--output photos: is an input; take another folder"),
        (["photos/a.png", "--output", "photos"], r"photos/a.png: would be written over an input"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(folder, capsys, options, message):
    (folder / "empty").mkdir()
    (folder / "photos" / "same").mkdir()
    Path("photos/same/a.png").write_bytes(Path("photos/a.png").read_bytes())
    Path("photos/no.csv").write_text("file\na.png\n")
    Path("photos/void.csv").write_text("")
    (folder / "foreign").mkdir()
    Path("foreign/run.json").write_text(json.dumps({"settings": {"patch_size": "64"}, "data_digest": ""}))
    before = sorted(folder.rglob("*"))
    try:
        status = gen.main(options)
    except SystemExit as stopped:  # from argparse
        status = stopped.code
    assert status == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.startswith("pix_pix_gen.py: error: ")
    assert error.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


def test_damaged_checkpoint_is_one_line(folder, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    for path in Path("training_checkpoints/small").iterdir():
        if path.is_file():
            (run / path.name).write_bytes(path.read_bytes())
    os.truncate(tf.train.latest_checkpoint(run) + ".data-00000-of-00001", 1000)
    assert gen.main(["photos", "--run", str(run)]) == 2
    error = capsys.readouterr().err
    assert re.search(r"run/ckpt-4: damaged, or of another model", error)
    assert error.count("\n") == 1
