"""The synthesis command: every kind of input, which files it writes, and what is refused."""

import csv
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from conftest import fake_fundus, files_below, round_field
from PIL import Image

import pix_pix_gen as gen
import pix_pix_train as train
from basics.command_line import OptionError
from pairs.origin import read_origin, write_png
from retina.field_of_view import field_of_view
from retina.images import DataError, read_fundus, to_uint8
from retina.vessels import vessel_map
from run.checkpoints import read_run
from run.predict import load_predictor
from synthesis import Synthesiser

RUN = Path("training_checkpoints/small")
RESULTS = [
    *("a.png", "a_figure.png", "a_probability.png", "a_vessels.png"),
    *("below/b.png", "below/b_figure.png", "below/b_probability.png", "below/b_vessels.png"),
    *("densities.csv", "sheet_1.png"),
]


def grey_levels(path):
    return np.asarray(Image.open(path)).astype(int)


def contents(folder):
    return {name: Path(folder, name).read_bytes() for name in files_below(folder)}


def densities(folder):
    rows = csv.DictReader(Path(folder, "densities.csv").read_text().splitlines())
    return [row for row in rows if row["region"] == "whole"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with two photographs, one in a subfolder."""
    photos = tmp_path_factory.mktemp("photos") / "photos"
    (photos / "below").mkdir(parents=True)
    Image.fromarray(round_field(100)).save(photos / "a.png")
    Image.fromarray(fake_fundus(np.random.default_rng(5), 70, 130)).save(photos / "below" / "b.jpg")
    (photos / ".hidden.png").write_text("no image")
    return photos


@pytest.fixture(scope="module")
def made(photos, small_run):
    """The folder of all results of the photographs, for reading only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(photos.parent)
        (photos.parent / RUN).parent.mkdir()
        (photos.parent / RUN).symlink_to(small_run)
        assert gen.main(["photos", "--vessels", "--figure"]) == 0
    return photos.parent / "synthetic_octa"


@pytest.fixture
def folder(photos, small_run, tmp_path, monkeypatch):
    """A folder to run in, with the photographs, and with a link to the run."""
    (tmp_path / RUN).parent.mkdir()
    (tmp_path / RUN).symlink_to(small_run)
    shutil.copytree(photos, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def finished(folder, made):
    """The same, with all results of an earlier command."""
    shutil.copytree(made, folder / "synthetic_octa")
    return folder


# --- results ---------------------------------------------------------------------------------------------------------


def test_folder_keeps_its_tree_and_photographs_their_size(made):
    assert files_below(made) == RESULTS
    with Image.open(made / "a.png") as image:
        assert (image.mode, image.size) == ("L", (100, 100))
    assert Image.open(made / "below/b.png").size == (130, 70)


def test_density_is_that_of_the_vessel_map_and_nothing_is_expected_without_a_vessel_output(made):
    fov = field_of_view(round_field(100))
    vessels, probability = grey_levels(made / "a_vessels.png") > 0, grey_levels(made / "a_probability.png") / 255
    row, other = densities(made)
    assert np.mean(vessels == vessel_map(probability, fov)) > 0.9  # 8 bits round what the map was made from
    assert (row["path"], other["path"]) == ("a.png", "below/b.png")
    assert (int(row["vessel_px"]), int(row["region_px"])) == (vessels.sum(), fov.sum())
    assert float(row["vessel_density"]) == pytest.approx(vessels.sum() / fov.sum(), abs=1e-6)
    assert {row[name] for name in ("expected_density", "density_low", "density_high", "dice_high")} == {"nan"}


def test_whole_fundus_of_training_is_what_synthesis_gives(folder):
    uneven = round_field(100) * np.linspace(0.5, 1, 100)[:, np.newaxis]  # synthesis evens out the light
    Image.fromarray(uneven.astype(np.uint8)).save("photos/a.png")
    assert gen.main(["photos/a.png"]) == 0
    predictor, _ = load_predictor(RUN, None, read_run(RUN)[0])
    octa = train.evaluate_whole_fundus(SimpleNamespace(predictor=predictor), read_fundus(Path("photos/a.png")), True)
    np.testing.assert_array_equal(to_uint8(octa[..., 0]), grey_levels("synthetic_octa/a.png"))


@pytest.mark.parametrize("options", ["--field-degrees 90", "--px-per-mm 5", "--published"])
def test_scale_and_published_prediction_change_the_octa(folder, options, monkeypatch):
    monkeypatch.setattr("run.predict.DIAMETERS", (70, 100, 140))  # for small photographs
    monkeypatch.setattr("run.predict.ENLARGED", 140)
    for output, *given in (("own",), ("other", *options.split()), ("again", *options.split())):
        assert gen.main(["photos/a.png", "--output", output, *given]) == 0
    own, other, again = (grey_levels(f"{output}/a.png") for output in ("own", "other", "again"))
    assert not np.array_equal(own, other)
    assert np.array_equal(other, again)


def test_fast_prediction_has_the_same_octa_and_takes_the_probability_from_it(folder, made):
    assert gen.main(["photos/a.png", "--vessels", "--output", "fast", "--fast"]) == 0
    assert np.array_equal(grey_levels(made / "a.png"), grey_levels("fast/a.png"))
    assert np.array_equal(grey_levels("fast/a_probability.png"), grey_levels("fast/a.png"))


def test_missing_border_and_doubts_are_printed(folder, capsys):
    assert gen.main(["photos", "--fast"]) == 0
    captured = capsys.readouterr()
    assert "photos/below/b.jpg: shows no border" in captured.out + captured.err
    assert "photos/a.png: shows no border" not in captured.out + captured.err
    assert "Usable: 0 of 2; doubtful: photos/a.png (" in captured.out


# --- results of earlier commands -------------------------------------------------------------------------------------


def test_existing_results_are_kept_and_missing_ones_made(finished):
    complete = contents("synthetic_octa")
    table = Path("synthetic_octa/densities.csv")
    table.write_text(table.read_text().rpartition(',"')[0])  # as an interrupted writer might leave it
    write_png(np.zeros((1, 1), np.uint8), Path("synthetic_octa/a.png"), read_origin(Path("synthetic_octa/a.png")))
    assert gen.main(["photos", "--vessels"]) == 0
    assert Image.open("synthetic_octa/a.png").size == (1, 1)
    assert table.read_bytes() == complete["densities.csv"]
    assert gen.main(["photos", "--vessels", "--overwrite"]) == 0
    assert contents("synthetic_octa") == complete


@pytest.mark.parametrize("other", ["--weights last", "--px-per-mm 8"])
def test_results_made_in_another_way_are_not_mixed(finished, refused, other):
    before = contents("synthetic_octa")
    error = refused(gen, "photos", *other.split())
    assert re.search(r"synthetic_octa/a\.png: was made with .*, now ", error)
    assert error.endswith("; choose another --output, or replace it with --overwrite\n")
    assert contents("synthetic_octa") == before


def test_png_that_does_not_tell_its_origin_is_not_kept(folder, refused):
    Path("synthetic_octa").mkdir()
    Image.new("L", (100, 100)).save("synthetic_octa/a.png")
    assert "synthetic_octa/a.png: was made by another program" in refused(gen, "photos/a.png")


# --- inputs ----------------------------------------------------------------------------------------------------------


def test_list_keeps_its_tree_and_unusable_photographs_are_named(folder, capsys):
    Image.new("RGB", (90, 90)).save("photos/black.png")
    Path("photos/cut.png").write_bytes(Path("photos/a.png").read_bytes()[:300])
    Path("photos/list.csv").write_text("path\na.png\nblack.png\nbelow/b.jpg\ncut.png\nmissing.png\n")
    assert gen.main(["photos/list.csv", "--fast"]) == 2
    failed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pix_pix_gen.py: error: ")]
    assert [line.split("photos/")[1].split(":")[0] for line in failed] == ["black.png", "cut.png", "missing.png"]
    assert files_below("synthetic_octa") == ["a.png", "below/b.png"]


def test_dataset_gets_the_names_of_ut_fsocta(folder, small_data):
    shutil.copytree(small_data / "UT-FSOCTA-v1", "UT-FSOCTA-v1")
    Path("UT-FSOCTA-v1/fov45").rename("UT-FSOCTA-v1/fov_45")  # the name in the study's scripts
    assert gen.main(["--dataset", ".", "--output", "out"]) == 0
    assert files_below("out") == ["cropped/synthetic_octa/disc/31_OD.png", "fov45/synthetic_octa/31_OD.png"]
    assert Image.open("out/fov45/synthetic_octa/31_OD.png").size == (130, 130)


@pytest.mark.parametrize(("split", "number"), [("validation", 2), ("all", 6)])
def test_dataset_of_the_run_is_the_default_and_split_by_its_subjects(folder, split, number):
    assert gen.main(["--dataset", "--split", split, "--fast"]) == 0
    files = files_below("synthetic_octa")
    assert "cropped/synthetic_octa/disc/26_OD.png" in files
    assert len(files) == number


def test_run_without_best_weights_uses_its_last_but_never_a_damaged_one(folder, capsys, refused):
    run = folder / "run"
    shutil.copytree(RUN, run, ignore=shutil.ignore_patterns("best"))
    assert gen.main(["photos/a.png", "--run", "run", "--fast"]) == 0
    assert "Weights: run/ckpt-6" in capsys.readouterr().out
    assert "run: " in refused(gen, "photos/a.png", "--run", "run", "--weights", "best")
    os.truncate(tf.train.latest_checkpoint(run) + ".data-00000-of-00001", 1000)
    assert "run/ckpt-6" in refused(gen, "photos", "--run", "run")


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("", "--dataset"),
        ("empty", "empty"),
        ("photos --dataset", "--dataset"),
        ("photos --split test", "--split"),
        ("--dataset --field-mask m.png", "--field-mask"),
        ("photos --published --stride 65", "--stride"),
        ("photos --batch-size 4", "--batch-size"),
        ("photos --published --fast", "--published"),
        ("photos --field-degrees 45 --px-per-mm 77", "--px-per-mm"),
        ("photos --run foreign", "foreign/run.json"),
        ("photos/a.png photos/below/a.png", "photos/below/a.png"),
        ("photos --output photos", "--output photos"),
        ("photos --threads 0", "--threads 0"),
        ("photos --shard 4/3", "--shard"),
        ("photos --shard 3", "--shard"),
        ("photos --collect empty", "--collect"),
        ("--collect empty", "empty: has no tables of shards"),
    ],
)
def test_bad_options_are_refused_and_leave_nothing(folder, refused, options, named):
    for name in ("empty", "foreign"):
        Path(name).mkdir()
    Path("photos/below/a.png").write_bytes(Path("photos/a.png").read_bytes())
    Path("foreign/run.json").write_text(json.dumps({"settings": {"patch_size": "64"}, "data_digest": ""}))
    before = files_below(folder)
    assert named in refused(gen, *options.split())
    assert files_below(folder) == before


def test_shards_are_collected_into_what_one_command_gives(folder, made):
    for shard in ("1/2", "2/2"):
        assert gen.main(["photos", "--vessels", "--figure", "--shard", shard]) == 0
    assert gen.main(["--collect", "synthetic_octa"]) == 0
    together, one = contents("synthetic_octa"), contents(made)
    assert {name: together[name] for name in one} == one


def test_script_for_a_cluster_asks_for_each_shard_once(tmp_path):
    page = (Path(gen.__file__).parent / "docs" / "many-computers.md").read_text()
    script = page.split("```bash\n")[1].split("```")[0]
    assert "#SBATCH --array=1-40\n" in script
    shim = tmp_path / "python"
    shim.write_text('#!/bin/sh\necho "$@"\n')
    shim.chmod(0o755)
    shards = []
    for number in range(1, 41):
        job = {
            "SLURM_ARRAY_TASK_ID": str(number),
            "SLURM_ARRAY_TASK_COUNT": "40",
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
        }
        said = subprocess.run(["bash", "-c", script], env=os.environ | job, capture_output=True, text=True, check=True)
        program, *options = said.stdout.split()
        assert program == "pix_pix_gen.py"
        shards.append(gen.parse_command_line(options).shard)
    assert shards == [(number, 40) for number in range(1, 41)]


def test_python_call_gives_what_the_command_writes(folder, made):
    result = Synthesiser(RUN).photograph("photos/a.png")
    assert np.array_equal(to_uint8(result.octa), grey_levels(made / "a.png"))
    assert np.array_equal(result.vessels, grey_levels(made / "a_vessels.png") > 0)
    assert f"{result.density:.6f}" == densities(made)[0]["vessel_density"]


def test_python_call_takes_an_array_or_a_folder(folder):
    synthesiser = Synthesiser(RUN)
    array = synthesiser.photograph(read_fundus(Path("photos/a.png")), field_degrees=30)
    results = dict(synthesiser.folder("photos", field_degrees=30))
    assert [path.as_posix() for path in results] == ["photos/a.png", "photos/below/b.jpg"]
    assert np.array_equal(results[Path("photos/a.png")].octa, array.octa)


@pytest.mark.parametrize("scale", [{"px_per_mm": -5}, {"field_degrees": 0}, {"px_per_mm": 50, "field_degrees": 30}])
def test_python_call_refuses_what_the_command_refuses(folder, scale):
    with pytest.raises(OptionError, match=next(iter(scale))):
        Synthesiser(RUN).photograph("photos/a.png", **scale)


def test_export_of_weights_never_replaces_a_run(folder, refused):
    before = contents(RUN)
    assert "is a run" in refused(gen, "--run", str(RUN), "--export", str(RUN), "--format", "weights")
    assert contents(RUN) == before


@pytest.mark.parametrize("array", [np.zeros((9, 9, 3)), np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8)])
def test_python_call_refuses_other_arrays(folder, array):
    with pytest.raises(DataError, match="uint8"):
        Synthesiser(RUN).photograph(array)
