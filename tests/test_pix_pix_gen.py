"""The synthesis command: every kind of input, which files it writes, and what is refused."""

import csv
import json
import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import fake_fundus, files_below, narrow_program, round_field
from PIL import Image

import pix_pix_gen as gen
import pix_pix_train as train
import synthesis.synthesise as photo_synthesis
from pairs.finished import Origin, read_origin, write_png
from pix_generator import Generator
from retina.field_of_view import field_of_view, find_field
from retina.images import read_fundus, to_uint8
from retina.vessels import smooth
from run.checkpoints import read_run, save, write_run
from run.predict import load_predictor
from run.settings import Settings


def grey_levels(path):
    return np.asarray(Image.open(path)).astype(int)


def densities():
    return list(csv.DictReader(Path("synthetic_octa/densities.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a data set, and a run in training_checkpoints/small whose best weights differ from the last."""
    folder = tmp_path_factory.mktemp("trained")
    random = np.random.default_rng(0)
    for kind in ("fundus", "octa"):
        (folder / "UT-FSOCTA-v1" / "cropped" / kind / "disc").mkdir(parents=True)
        for name in ("1_OD", "26_OD", "31_OD"):
            image = Image.fromarray(fake_fundus(random, 90, 80))
            image.save(folder / "UT-FSOCTA-v1" / "cropped" / kind / "disc" / f"{name}.png")
    (folder / "UT-FSOCTA-v1" / "fov_45" / "fundus").mkdir(parents=True)
    Image.fromarray(round_field(130)).save(folder / "UT-FSOCTA-v1" / "fov_45" / "fundus" / "31_OS.jpg")
    keras.config.set_dtype_policy("float32")
    run = folder / "training_checkpoints" / "small"
    settings = Settings(patch_size=64, batch_size=2, precision="float32", name="small", data="UT-FSOCTA-v1")
    for seed, place, step in ((0, run / "best", 3), (1, run, 4)):
        keras.utils.set_random_seed(seed)
        state = {"generator": Generator(3, (None, None), 1), "epoch": tf.Variable(settings.epochs, dtype=tf.int64)}
        save(tf.train.Checkpoint(**state), place, step, keep=1)
    write_run(run, settings, "0")
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


def test_whole_fundus_of_training_is_what_synthesis_gives(folder):
    run, photo = Path("training_checkpoints/small"), Path("photos/a.png")
    uneven = round_field(100) * np.linspace(0.5, 1, 100)[:, np.newaxis]  # synthesis evens out the light
    Image.fromarray(uneven.astype(np.uint8)).save(photo)
    assert gen.main([str(photo)]) == 0
    predictor, _ = load_predictor(run, None, read_run(run)[0])
    octa = train.evaluate_whole_fundus(SimpleNamespace(predictor=predictor), read_fundus(photo), fov_mask=True)
    np.testing.assert_array_equal(to_uint8(octa[..., 0]), grey_levels("synthetic_octa/a.png"))


# --- results ---------------------------------------------------------------------------------------------------------


def test_folder_keeps_its_tree_and_photographs_their_size(folder):
    assert gen.main(["photos", "--vessels", "--figure"]) == 0
    assert files_below("synthetic_octa") == [
        *("a.png", "a_disagreement.png", "a_figure.png", "a_probability.png", "a_vessels.png"),
        *("below/b.png", "below/b_disagreement.png", "below/b_figure.png", "below/b_probability.png"),
        *("below/b_vessels.png", "densities.csv", "sheet_1.png"),
    ]
    with Image.open("synthetic_octa/a.png") as image:
        assert (image.mode, image.size) == ("L", (100, 100))
    assert Image.open("synthetic_octa/below/b.png").size == (130, 70)
    assert Image.open("synthetic_octa/a_figure.png").size[0] > 1000


def test_octa_is_black_outside_the_camera_s_field(folder):
    assert gen.main(["photos/a.png"]) == 0
    fov = field_of_view(round_field(100))
    octa = grey_levels("synthetic_octa/a.png")
    assert not octa[~fov].any()
    assert octa[fov].std() > 1


def test_density_is_that_of_the_vessel_map_and_names_its_threshold(folder):
    assert gen.main(["photos", "--vessels"]) == 0
    fov = field_of_view(round_field(100))
    vessels = grey_levels("synthetic_octa/a_vessels.png") > 0
    probability = grey_levels("synthetic_octa/a_probability.png") / 255
    smoothed = smooth(probability, fov, find_field(round_field(100)).diameter() / 1000)
    expected = fov & (smoothed > float(densities()[0]["threshold"]))
    assert np.mean(vessels == expected) > 0.9  # 8 bits round what the map was made from
    rows = densities()
    assert [row["path"] for row in rows] == ["a.png", "below/b.png"]
    assert (int(rows[0]["vessel_px"]), int(rows[0]["field_px"])) == (vessels.sum(), fov.sum())
    assert float(rows[0]["vessel_density"]) == pytest.approx(vessels.sum() / fov.sum(), abs=1e-6)
    assert probability[fov].min() < float(rows[0]["threshold"]) < probability[fov].max()


def test_disagreement_is_that_of_its_picture(folder):
    assert gen.main(["photos/a.png", "--vessels"]) == 0
    fov = field_of_view(round_field(100))
    disagreement = grey_levels("synthetic_octa/a_disagreement.png")[fov] / 510
    (row,) = densities()
    assert float(row["disagreement"]) == pytest.approx(disagreement.mean(), abs=2e-3)
    assert float(row["disagreeing_share"]) == pytest.approx((disagreement > 0.1).mean(), abs=0.02)


@pytest.mark.parametrize("options", [["--field-degrees", "90"], ["--px-per-mm", "5"]])
def test_scale_changes_the_result(folder, options, monkeypatch):
    monkeypatch.setattr("run.predict.DIAMETERS", (70, 100, 140))  # for small photographs
    monkeypatch.setattr("run.predict.ENLARGED", 140)
    for output, more in (("mean", []), ("other", options)):
        assert gen.main(["photos/a.png", "--output", output, *more]) == 0
    assert not np.array_equal(grey_levels("mean/a.png"), grey_levels("other/a.png"))


def test_fast_prediction_has_the_same_octa_and_takes_the_probability_from_it(folder):
    for output, more in (("mean", []), ("fast", ["--fast"])):
        assert gen.main(["photos/a.png", "--vessels", "--output", output, *more]) == 0
    assert np.array_equal(grey_levels("mean/a.png"), grey_levels("fast/a.png"))
    assert np.array_equal(grey_levels("fast/a_probability.png"), grey_levels("fast/a.png"))
    assert not np.array_equal(grey_levels("mean/a_probability.png"), grey_levels("mean/a.png"))


def test_photograph_without_a_border_is_named(folder, capsys):
    assert gen.main(["photos"]) == 0
    captured = capsys.readouterr()
    assert "photos/below/b.jpg: shows no border" in captured.out + captured.err
    assert "photos/a.png: shows no border" not in captured.out + captured.err


def test_verdict_is_in_the_table_and_the_last_line_names_the_doubtful(folder, capsys):
    assert gen.main(["photos/a.png", "--vessels"]) == 0
    assert densities()[0]["verdict"].startswith("doubtful: ")
    assert "Usable: 0 of 1; doubtful: photos/a.png (" in capsys.readouterr().out


def test_existing_results_are_kept_and_missing_ones_made(folder):
    assert gen.main(["photos", "--vessels"]) == 0
    complete = {name: Path("synthetic_octa", name).read_bytes() for name in files_below("synthetic_octa")}
    table = Path("synthetic_octa/densities.csv")
    table.write_text(table.read_text().rpartition(',"')[0])  # as an interrupted writer might leave it
    write_png(np.zeros((1, 1), np.uint8), Path("synthetic_octa/a.png"), read_origin(Path("synthetic_octa/a.png")))
    assert gen.main(["photos", "--vessels"]) == 0
    assert Image.open("synthetic_octa/a.png").size == (1, 1)
    assert table.read_bytes() == complete["densities.csv"]
    assert gen.main(["photos", "--vessels", "--overwrite"]) == 0
    assert {name: Path("synthetic_octa", name).read_bytes() for name in files_below("synthetic_octa")} == complete


@pytest.mark.parametrize(
    "other", [["--weights", "last"], ["--fast"], ["--published"], ["--field-degrees", "30"], ["--px-per-mm", "8"]]
)
def test_results_made_in_another_way_are_not_mixed(folder, refused, other):
    assert gen.main(["photos", "--vessels"]) == 0
    before = {name: Path("synthetic_octa", name).read_bytes() for name in files_below("synthetic_octa")}
    error = refused(gen, "photos", "--vessels", *other)
    assert "synthetic_octa/a.png: was made with small/best/ckpt-3 (" in error
    assert error.endswith("; choose another --output, or replace it with --overwrite\n")
    assert {name: Path("synthetic_octa", name).read_bytes() for name in files_below("synthetic_octa")} == before


def test_octa_of_other_weights_is_not_kept(folder, refused):
    assert gen.main(["photos/a.png"]) == 0
    error = refused(gen, "photos/a.png", "--weights", "last")
    assert "synthetic_octa/a.png: was made with small/best/ckpt-3 (" in error


def test_png_that_does_not_say_how_it_was_made_is_not_kept(folder, refused):
    Path("synthetic_octa").mkdir()
    Image.new("L", (100, 100)).save("synthetic_octa/a.png")
    assert "synthetic_octa/a.png: was made with another program, not small/" in refused(gen, "photos/a.png")


def test_every_png_tells_its_origin(folder):
    assert gen.main(["photos", "--vessels", "--figure"]) == 0
    pngs = [name for name in files_below("synthetic_octa") if name.endswith(".png")]
    told = {read_origin(Path("synthetic_octa", name)) for name in pngs if name != "sheet_1.png"}
    assert told == {Origin(row["photo_digest"], row["made_with"], row["source"]) for row in densities()}


def test_sheet_tells_how_its_figures_were_made(folder):
    assert gen.main(["photos", "--figure"]) == 0
    figure, sheet = (read_origin(Path("synthetic_octa", name)).made_with for name in ("a_figure.png", "sheet_1.png"))
    assert figure == f"{sheet}, 45 degrees"


def test_results_in_an_input_folder_are_no_photographs(folder):
    assert gen.main(["photos", "--vessels", "--figure", "--output", "photos/first"]) == 0
    assert gen.main(["photos", "--output", "second"]) == 0
    assert files_below("second") == ["a.png", "below/b.png"]


@pytest.mark.parametrize("passes", [["--fast"], ["--published"]])
def test_one_pass_has_no_disagreement(folder, capsys, passes):
    assert gen.main(["photos/a.png", "--vessels", *passes]) == 0
    assert files_below("synthetic_octa") == ["a.png", "a_probability.png", "a_vessels.png", "densities.csv"]
    assert gen.main(["photos/a.png", "--vessels", *passes]) == 0
    assert "1 of 1 photographs have results, which are kept" in capsys.readouterr().out


def test_disagreement_of_an_earlier_command_is_removed(folder):
    assert gen.main(["photos/a.png", "--vessels"]) == 0
    assert gen.main(["photos/a.png", "--vessels", "--fast", "--overwrite"]) == 0
    assert "a_disagreement.png" not in files_below("synthetic_octa")


def test_figures_of_photographs_with_one_name_say_their_subfolders(folder, monkeypatch):
    Path("photos/below/b.jpg").rename("photos/below/a.jpg")
    shown = []
    monkeypatch.setattr(
        photo_synthesis, "write_figure", lambda figure, path: shown.append((figure.name, figure.passes))
    )
    assert gen.main(["photos", "--figure", "--fast"]) == 0
    assert shown == [("a.png", "one pass"), ("below/a.jpg", "one pass")]


def test_other_photographs_may_be_made_in_another_way(folder):
    assert gen.main(["photos/a.png", "--vessels"]) == 0
    assert gen.main(["photos/below/b.jpg", "--vessels", "--weights", "last"]) == 0
    assert [row["made_with"].split(" (")[0] for row in densities()] == ["small/best/ckpt-3", "small/ckpt-4"]


def test_results_are_kept_from_every_current_folder(folder, monkeypatch, capsys):
    assert gen.main(["photos/a.png", "--vessels"]) == 0
    monkeypatch.chdir("photos")
    run = ["--run", "../training_checkpoints/small", "--output", "../synthetic_octa"]
    assert gen.main(["a.png", "--vessels", *run]) == 0
    assert "1 of 1 photographs have results" in capsys.readouterr().out


def test_figure_has_the_width_of_the_table_of_pairs(folder, monkeypatch):
    Path("pairs.csv").write_text("fundus,octa,subject,octa_mm,split\nphotos/a.png,photos/a.png,Ann,4,test\n")
    shown = []
    monkeypatch.setattr(
        photo_synthesis, "write_figure", lambda figure, path: shown.append((figure.px_per_mm, figure.is_assumed))
    )
    assert gen.main(["--dataset", "pairs.csv", "--figure"]) == 0
    assert shown == [(25, False)]  # 100 px


def test_dataset_gets_the_names_of_ut_fsocta(folder):
    assert gen.main(["--dataset", "data", "--output", "out"]) == 0
    assert files_below("out") == ["cropped/synthetic_octa/disc/31_OD.png", "fov45/synthetic_octa/31_OS.png"]
    assert Image.open("out/fov45/synthetic_octa/31_OS.png").size == (130, 130)


def test_dataset_of_the_run_is_the_default_and_split_by_its_subjects(folder):
    (folder / "UT-FSOCTA-v1").symlink_to(folder / "data" / "UT-FSOCTA-v1")  # where the run says that its data are
    assert gen.main(["--dataset", "--split", "validation", "--output", "validation"]) == 0
    assert files_below("validation") == ["cropped/synthetic_octa/disc/26_OD.png"]
    assert gen.main(["--dataset", "--split", "all", "--output", "all"]) == 0
    assert len(files_below("all")) == 4


@pytest.mark.parametrize(("weights", "path"), [([], "best/ckpt-3"), (["last"], "ckpt-4"), (["best"], "best/ckpt-3")])
def test_weights_are_those_asked_for(folder, capsys, weights, path):
    assert gen.main(["photos/a.png", *(["--weights", *weights] if weights else [])]) == 0
    assert f"Weights: training_checkpoints/small/{path}; the newest finished run" in capsys.readouterr().out


def test_run_without_a_best_checkpoint_uses_its_last(folder, capsys, refused):
    run = folder / "run"
    run.mkdir()
    for path in Path("training_checkpoints/small").glob("*.*"):
        (run / path.name).symlink_to(path.resolve())
    assert gen.main(["photos/a.png", "--run", str(run)]) == 0
    assert f"Weights: {run / 'ckpt-4'}" in capsys.readouterr().out
    assert str(run) in refused(gen, "photos/a.png", "--run", str(run), "--weights", "best")


def test_published_prediction_is_another_one_and_repeatable(folder):
    for output, *options in (("own",), ("published", "--published"), ("again", "--published", "--batch-size", "2")):
        assert gen.main(["photos/a.png", "--output", output, *options]) == 0
    own, published, again = (grey_levels(f"{name}/a.png") for name in ("own", "published", "again"))
    assert not np.array_equal(own, published)
    assert np.array_equal(published, again)


@pytest.mark.slow
def test_interrupted_folder_is_resumed_by_the_same_command(folder):
    photos = folder / "many"
    photos.mkdir()
    for number in range(15):
        Image.fromarray(fake_fundus(np.random.default_rng(number), 300, 300)).save(photos / f"{number:02}.png")
    command = narrow_program("pix_pix_gen.py", "many")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not Path("synthetic_octa/01.png").exists():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in errors
    first = files_below("synthetic_octa")
    assert 2 <= len(first) < 15
    assert all(Image.open(f"synthetic_octa/{name}").load() for name in first)
    assert gen.main(["many"]) == 0
    assert len(files_below("synthetic_octa")) == 15


# --- inputs ----------------------------------------------------------------------------------------------------------


def test_every_kind_of_photograph_is_done_or_named(folder, capsys):
    random = np.random.default_rng(6)
    fundus = Image.fromarray(fake_fundus(random, 80, 90))
    photos = folder / "kinds"
    photos.mkdir()
    fundus.convert("L").save(photos / "grey.png")
    fundus.convert("RGBA").save(photos / "rgba.png")
    Image.fromarray(np.asarray(fundus.convert("L")).astype(np.uint16) * 257).save(photos / "deep.png")
    fundus.convert("CMYK").save(photos / "cmyk.jpg")
    fundus.save(photos / "lzw.tif", compression="tiff_lzw")
    Image.new("RGB", (1, 1), (200, 90, 40)).save(photos / "pixel.png")
    Image.fromarray(fake_fundus(random, 100, 2000)).save(photos / "wide.bmp")
    good = {path.name: Image.open(path).size for path in photos.iterdir()}
    (photos / "text.png").write_text("a text that is named like a picture")
    (photos / "cut.png").write_bytes((photos / "rgba.png").read_bytes()[:300])
    Image.new("RGB", (90, 90)).save(photos / "black.png")

    assert gen.main(["kinds"]) == 2
    failed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pix_pix_gen.py: error: ")]
    assert [line.split("kinds/")[1].split(":")[0] for line in failed] == ["black.png", "cut.png", "text.png"]
    assert {name: Image.open(f"synthetic_octa/{Path(name).stem}.png").size for name in good} == good
    assert np.abs(grey_levels("synthetic_octa/grey.png") - grey_levels("synthetic_octa/deep.png")).max() <= 1


def test_table_of_paths_keeps_its_tree(folder):
    Path("photos/below/a.png").write_bytes(Path("photos/a.png").read_bytes())
    Path("photos/list.csv").write_text("eye,path\nOD,a.png\nOS,below/b.jpg\nOS,below/a.png\n,\n")
    assert gen.main(["photos/list.csv", "--output", "out"]) == 0
    assert files_below("out") == ["a.png", "below/a.png", "below/b.png"]


def test_paths_out_of_the_table_s_folder_lose_their_tree(folder):
    Path("photos/below/list.csv").write_text(f"path\n../a.png\n{folder}/photos/below/b.jpg\n")
    assert gen.main(["photos/below/list.csv", "--output", "apart"]) == 0
    assert files_below("apart") == ["a.png", "b.png"]


def test_photograph_of_a_table_that_is_missing_is_named_and_the_others_are_done(folder, capsys):
    Path("photos/list.csv").write_text("Path\nmissing.png\nbelow\\b.jpg\n")
    assert gen.main(["photos/list.csv"]) == 2
    assert "photos/missing.png: " in capsys.readouterr().err
    assert files_below("synthetic_octa") == ["below/b.png"]


def test_photograph_named_twice_is_done_once(folder, capsys):
    assert gen.main(["photos/a.png", "./photos/a.png"]) == 0
    assert "1 written to" in capsys.readouterr().out


def test_photograph_whose_name_is_no_utf8_is_done(folder):
    Path("photos/a.png").rename("photos/\udcff.png")
    assert gen.main(["photos/\udcff.png", "--vessels"]) == 0
    assert [row["path"] for row in densities()] == [r"\xff.png"]


def test_photograph_with_too_long_a_name_is_named_and_the_others_are_done(folder, capsys):
    Path("photos/below/b.jpg").rename(f"photos/{'n' * 246}.jpg")
    assert gen.main(["photos", "--vessels"]) == 2
    assert f"photos/{'n' * 246}.jpg: the names of its results" in capsys.readouterr().err
    assert [row["path"] for row in densities()] == ["a.png"]


def test_output_below_the_input_is_no_input(folder):
    assert gen.main(["photos", "--output", "photos/out"]) == 0
    assert gen.main(["photos", "--output", "photos/out", "--overwrite"]) == 0
    assert files_below("photos/out") == ["a.png", "below/b.png"]


# --- what is refused -------------------------------------------------------------------------------------------------


def test_full_disk_names_the_file_and_leaves_no_part_of_it(folder, refused, monkeypatch):
    def full(self, path, **_):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert "synthetic_octa/a.png" in refused(gen, "photos/a.png")
    assert files_below("synthetic_octa") == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ([], "--dataset"),
        (["nowhere"], "nowhere"),
        (["empty"], "empty"),
        (["photos/no.csv"], "photos/no.csv"),
        (["photos/void.csv"], "photos/void.csv"),
        (["photos", "--dataset"], "--dataset"),
        (["photos", "--split", "test"], "--split"),
        (["--dataset", "nowhere"], "--dataset nowhere"),
        (["photos", "--published", "--stride", "0"], "--stride"),
        (["photos", "--published", "--stride", "65"], "--stride"),
        (["photos", "--stride", "2"], "--stride"),
        (["photos", "--published", "--fast"], "--published"),
        (["photos", "--px-per-mm", "0.1"], "--px-per-mm"),
        (["photos", "--field-degrees", "nan"], "--field-degrees"),
        (["photos", "--field-degrees", "45", "--px-per-mm", "77"], "--px-per-mm"),
        (["photos", "--batch-size", "4"], "--batch-size"),
        (["photos", "--run", "nowhere"], "nowhere"),
        (["photos", "--run", "foreign"], "foreign/run.json"),
        (["photos", "--weights", "first"], "--weights"),
        (["photos/a.png", "photos/same/a.png"], "photos/same/a.png"),
        (["photos", "--output", "photos"], "--output photos"),
        (["photos/a.png", "--output", "photos"], "photos/a.png"),
    ],
)
def test_bad_options_are_refused_and_leave_nothing(folder, refused, options, named):
    (folder / "empty").mkdir()
    (folder / "photos" / "same").mkdir()
    Path("photos/same/a.png").write_bytes(Path("photos/a.png").read_bytes())
    Path("photos/no.csv").write_text("file\na.png\n")
    Path("photos/void.csv").write_text("")
    (folder / "foreign").mkdir()
    Path("foreign/run.json").write_text(json.dumps({"settings": {"patch_size": "64"}, "data_digest": ""}))
    before = files_below(folder)
    assert named in refused(gen, *options)
    assert files_below(folder) == before


def test_damaged_checkpoint_is_refused(folder, refused):
    run = folder / "run"
    run.mkdir()
    for path in Path("training_checkpoints/small").iterdir():
        if path.is_file():
            (run / path.name).write_bytes(path.read_bytes())
    os.truncate(tf.train.latest_checkpoint(run) + ".data-00000-of-00001", 1000)
    assert "run/ckpt-4" in refused(gen, "photos", "--run", str(run))
