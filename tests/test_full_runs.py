"""Whole runs: stopped and resumed, fine-tuned, on simulated retinas, and what is refused."""

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import time
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import SMALL, checkpoint_values, different_values, files_below, logged, narrow_program, tags_of
from PIL import Image

import pix_pix_train as train
import run.data as pix_data
from basics.command_line import UserError
from retina.similarity import VALIDATION_SCORES
from run.settings import BEST_BY, SIMULATED_RUN, Settings
from run.tags import PICTURES, PROGRESS
from simulation.stream import WORKER_ENDED

TRAIN_TAGS = {"gen_total_loss", "gen_gan_loss", "gen_l1_loss", "disc_loss", "disc_real_mean", "disc_generated_mean"}
L1_ONLY = ["--l1-only", "1"]  # such a step is built soon


# --- whole runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run of four epochs, `whole`, and one that was resumed after two of them, `parts`."""
    from conftest import write_tiny_dataset

    folder = tmp_path_factory.mktemp("runs")
    write_tiny_dataset(folder / "data")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert train.main([*SMALL, "--epochs", "4", "--name", "whole"]) == 0
        assert train.main([*SMALL, "--epochs", "2", "--name", "parts"]) == 0
        assert train.main(["--resume", "training_checkpoints/parts", "--epochs", "4"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("place", ["", "best"])
def test_resumed_run_equals_an_unbroken_one(runs, place):
    checkpoints = runs / "training_checkpoints"
    assert different_values(checkpoints / "whole" / place, checkpoints / "parts" / place) == []


@pytest.mark.slow
def test_resumed_run_logs_what_an_unbroken_one_logs(runs):
    for tag in (*TRAIN_TAGS, "learning_rate", "validation/mae"):
        assert logged(runs / "logs/fit/whole", tag) == logged(runs / "logs/fit/parts", tag)
    assert list(logged(runs / "logs/fit/parts", "disc_loss")) == list(range(1, 13))  # 8 patches: 3 steps an epoch
    tables = [(runs / "logs/fit" / name / "metrics.csv").read_text() for name in ("whole", "parts")]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_run_logs_every_tag(runs):
    epochs = {f"epoch/{tag}" for tag in TRAIN_TAGS}
    validation = {f"validation/{name}" for name in VALIDATION_SCORES}
    others = {"settings", "_hparams_/session_start_info", "custom_scalars__config__"}
    expected = TRAIN_TAGS | set(PROGRESS) | set(PICTURES) | epochs | validation | others
    assert tags_of(runs / "logs/fit/whole") == expected


@pytest.mark.slow
def test_mean_of_an_epoch_is_that_of_its_steps(runs):
    losses = list(logged(runs / "logs/fit/whole", "gen_l1_loss").values())
    assert logged(runs / "logs/fit/whole", "epoch/gen_l1_loss")[3] == pytest.approx(np.mean(losses[:3]), rel=1e-6)


@pytest.mark.slow
def test_metrics_are_the_logged_scores(runs):
    rows = list(csv.DictReader((runs / "logs/fit/whole/metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert float(rows[-1]["mae"]) == pytest.approx(logged(runs / "logs/fit/whole", "validation/mae")[12], rel=1e-6)


@pytest.mark.slow
def test_what_cannot_be_resumed_is_refused_and_left_alone(runs, tmp_path, monkeypatch, refused):
    run = tmp_path / "training_checkpoints" / "parts"
    run.mkdir(parents=True)
    for path in (runs / "training_checkpoints/parts").glob("*"):
        if path.is_file():
            (run / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(runs / "data")
    more = ["--resume", str(run), "--epochs", "9"]
    assert "--epochs" in refused(train, *more[:2])
    clash = refused(train, *more, "--seed", "3", "--no-augment")
    assert "--seed 3 (was 0)" in clash
    assert "--augment False (was True)" in clash
    other = tmp_path / "other" / "UT-FSOCTA-v1"
    for name in ("cropped/fundus/disc", "cropped/octa/disc"):
        (other / name).mkdir(parents=True)
        for path in (runs / "data/UT-FSOCTA-v1" / name).iterdir():
            Image.open(path).transpose(Image.Transpose.ROTATE_180).save(other / name / path.name)
    changed = refused(train, *more, "--data", "other")
    assert "other/UT-FSOCTA-v1: " in changed
    assert "differ from the run's; start a new run" in changed
    (tmp_path / "data").unlink()
    assert "--data data/UT-FSOCTA-v1" in refused(train, *more)
    (tmp_path / "data").symlink_to(runs / "data")
    for path in run.glob("*.data-*"):
        os.truncate(path, 1000)
    kept = {path: path.read_bytes() for path in run.glob("*.*")}
    assert "ckpt-12" in refused(train, *more)
    assert all(path.read_bytes() == content for path, content in kept.items())


@pytest.mark.slow
def test_run_that_a_signal_stopped_equals_an_unbroken_one(project):
    command = narrow_program("pix_pix_train.py", *SMALL, *L1_ONLY, "--epochs", "200", "--name", "broken")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            if line.startswith("  validation:"):  # after the first epoch
                break
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert "--resume training_checkpoints/broken" in output
    stopped = checkpoint_values("training_checkpoints/broken")
    epochs = str(2 + next(int(value) for name, value in stopped.items() if name.startswith("epoch/")))
    assert train.main(["--resume", "--epochs", epochs]) == 0
    assert train.main([*SMALL, *L1_ONLY, "--epochs", epochs, "--name", "whole"]) == 0
    assert different_values("training_checkpoints/whole", "training_checkpoints/broken") == []


def interrupt(monkeypatch, name, calls, number=signal.SIGINT):
    """Send a signal within a call of a function of the training program: its `calls`-th."""
    function, called = getattr(train, name), count(1)

    def interrupted(*arguments):
        if next(called) == calls:
            signal.raise_signal(number)
        return function(*arguments)

    monkeypatch.setattr(train, name, interrupted)


@pytest.fixture
def two_validation_pairs(project):
    """The tiny data set, with a second pair to validate on."""
    for kind in ("fundus", "octa"):
        folder = Path("data/UT-FSOCTA-v1/cropped", kind, "disc")
        shutil.copy(folder / "1_OD.png", folder / "27_OD.png")
    return project


IN_VALIDATION = {"first epoch": 1, "last epoch": 3}  # calls: two pairs, two epochs


@pytest.mark.slow
@pytest.mark.parametrize("calls", IN_VALIDATION.values(), ids=IN_VALIDATION)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_stopped_while_it_validates_equals_an_unbroken_one(
    two_validation_pairs, monkeypatch, capsys, calls, number
):
    run = [*SMALL, *L1_ONLY, "--epochs", "2"]
    assert train.main([*run, "--name", "whole"]) == 0
    capsys.readouterr()
    with monkeypatch.context() as patched:
        interrupt(patched, "generate_fundus_oct_pair", calls, number)
        assert train.main([*run, "--name", "parts"]) == 128 + number
    said = capsys.readouterr()
    assert "finishing the crop, then saving" in said.err
    assert said.out.count("  validation:") == calls // 2
    resume = said.out.splitlines()[-1].split()  # the command as it is printed
    assert resume[:2] == ["python", train.PROGRAM]
    assert train.main(resume[2:]) == 0
    for place in ("", "best"):
        assert different_values(f"training_checkpoints/whole/{place}", f"training_checkpoints/parts/{place}") == []
    tables = [Path("logs/fit", name, "metrics.csv").read_text() for name in ("whole", "parts")]
    assert tables[0] == tables[1]
    assert tags_of("logs/fit/whole") == tags_of("logs/fit/parts")
    for tag in ("epoch/gen_l1_loss", "validation/mae"):
        assert logged("logs/fit/whole", tag) == logged("logs/fit/parts", tag)
    assert len(logged("logs/fit/parts", "images_per_second")) == 2
    assert min(logged("logs/fit/parts", "images_per_second").values()) > 0


@pytest.mark.slow
def test_signal_after_the_last_validation_stops_nothing(project, monkeypatch, capsys):
    interrupt(monkeypatch, "mean_scores", 1)
    assert train.main([*SMALL, *L1_ONLY, "--epochs", "1", "--name", "x"]) == 0
    assert "--resume" not in capsys.readouterr().out


@pytest.mark.slow
def test_phases_noise_and_falling_rate_resume_where_they_stood(project, monkeypatch):
    run = [*SMALL, "--epochs", "2", "--l1-only", "0.5", "--decay", "1"]  # 3 steps an epoch
    run += ["--l1-scale", "4", "--input-noise", "0.1"]
    assert train.main([*run, "--name", "whole"]) == 0
    check = train.check_finite

    def stop_after_the_fourth(losses, step, folder):
        check(losses, step, folder)
        if step == 4:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(train, "check_finite", stop_after_the_fourth)
        assert train.main([*run, "--name", "parts"]) == 130
    assert train.main(["--resume", "training_checkpoints/parts"]) == 0
    assert different_values("training_checkpoints/whole", "training_checkpoints/parts") == []
    rates = logged("logs/fit/parts", "learning_rate")
    assert list(rates.values()) == pytest.approx([2e-4 * left / 6 for left in (6, 5, 4, 3, 2, 1)])
    assert list(logged("logs/fit/parts", "gen_l1_loss")) == [1, 2, 3, 4, 5, 6]
    assert list(logged("logs/fit/parts", "disc_loss")) == [4, 6]


@pytest.mark.slow
def test_run_whose_folders_are_deleted_meanwhile_is_complete_in_the_end(project, monkeypatch, capsys):
    check = train.check_finite

    def delete_after_the_first_epoch(losses, step, folder):
        check(losses, step, folder)
        if step == 4:
            shutil.rmtree("logs")
            shutil.rmtree("training_checkpoints")

    monkeypatch.setattr(train, "check_finite", delete_after_the_first_epoch)
    assert train.main([*SMALL, *L1_ONLY, "--epochs", "2", "--name", "x"]) == 0
    assert "logs/fit/x was deleted: made again" in capsys.readouterr().out
    assert list(logged("logs/fit/x", "validation/mae")) == [6]
    assert len(pd.read_csv("logs/fit/x/metrics.csv")) == 2
    assert train.main(["--resume", "--epochs", "3"]) == 0


@pytest.mark.slow
def test_best_weights_are_those_of_the_discriminator_s_phase(project, monkeypatch):
    mean_scores, epoch = train.mean_scores, count(1)
    monkeypatch.setattr(train, "mean_scores", lambda scores: mean_scores(scores) | {"vessel_auc": 1 / next(epoch)})
    assert train.main([*SMALL, "--epochs", "2", "--l1-only", "0.5", "--name", "phases"]) == 0
    assert tf.train.latest_checkpoint("training_checkpoints/phases/best").endswith("ckpt-6")  # not 3, which scored more


@pytest.mark.slow
def test_non_finite_loss_stops_the_run_and_saves_nothing(project, capsys):
    assert train.main([*SMALL, *L1_ONLY, "--epochs", "9", "--name", "bad", "--learning-rate", "1e35"]) == 2
    assert "gen_l1_loss is " in capsys.readouterr().err
    assert tf.train.latest_checkpoint("training_checkpoints/bad") is None


def test_error_names_the_last_good_checkpoint_only_if_there_is_one(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} has no checkpoint yet"):
        train.check_finite({"disc_loss": np.nan}, 3, tmp_path)
    (tmp_path / "best").mkdir()
    for name in ("ckpt-5", "best/ckpt-9"):
        (tmp_path / f"{name}.index").touch()
    with pytest.raises(UserError, match=f"the last good checkpoint is {tmp_path}/best/ckpt-9"):
        train.check_finite({"disc_loss": np.nan}, 13, tmp_path)


@pytest.mark.parametrize(("l1_scale", "least"), [(1, 0.80), (8, 0.79)])
def test_best_weights_of_a_run_that_learns_speckle_have_some(l1_scale, least):
    smooth, speckled = {"vessel_auc": 0.80, "texture": 2.6}, {"vessel_auc": 0.79, "texture": 0.4}
    settings = train.Settings(l1_scale=l1_scale)
    best = max(smooth, speckled, key=lambda scores: train.best_score(settings, scores))
    assert best["vessel_auc"] == least


@pytest.mark.parametrize(("best_by", "best"), [("vessel_dice", 0.3), ("mae", 0.1), ("texture", 0.1)])
def test_best_weights_by_another_score(best_by, best):
    settings = train.Settings(best_by=best_by, l1_scale=8)
    assert max((0.1, 0.3), key=lambda value: train.best_score(settings, {best_by: value})) == best


def test_scores_that_can_choose_exist():
    assert set(BEST_BY) <= set(VALIDATION_SCORES)


@pytest.mark.slow
def test_fine_tuning_starts_from_both_networks_of_the_other_run(runs, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    start = [*SMALL, "--data", str(runs / "data"), "--epochs", "1", "--mix", "0", "--learning-rate", "1e-30"]
    assert train.main([*start, "--name", "tuned", "--init-from", str(runs / "training_checkpoints/whole")]) == 0
    before = checkpoint_values(runs / "training_checkpoints/whole/best")
    after = checkpoint_values("training_checkpoints/tuned")
    weights = [name for name in before if "_trainable_variables" in name]  # where TensorFlow files them
    assert len(weights) == 33 + 9  # of the generator and of the discriminator
    assert all(np.array_equal(before[name], after[name]) for name in weights)


@pytest.mark.slow
def test_fine_tuning_with_other_channels_is_refused(runs, monkeypatch, tmp_path, refused):
    monkeypatch.chdir(tmp_path)
    start = [*SMALL, "--data", str(runs / "data"), "--init-from", str(runs / "training_checkpoints/whole")]
    assert "--octa-channels" in refused(train, *start, "--octa-channels", "4", "--mix", "0")
    assert files_below(tmp_path) == []


# --- runs on simulated retinas ----------------------------------------------------------------------------------------


@pytest.fixture
def simulated_folder(tmp_path, monkeypatch):
    """An empty folder to run in, where few simulated retinas suffice for validation and for an epoch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("run.new_run.DEFAULT_SUBJECTS", "1,26,31")
    monkeypatch.setattr(pix_data, "VALIDATION_RETINAS", 2)
    monkeypatch.setattr("run.batches.SIMULATED_PATCHES_PER_EPOCH", 9)
    return tmp_path


@pytest.fixture
def started(monkeypatch):
    """The settings of runs that are started, which are not trained."""
    found = []
    monkeypatch.setattr(train, "train", lambda settings, *_: found.append(settings) or 0)
    return found


@pytest.mark.slow
def test_simulated_retinas_replace_missing_data_with_a_notice(simulated_folder, started, capsys):
    assert train.main(["--epochs", "7"]) == 0
    assert "NO REAL DATA" in capsys.readouterr().out
    assert (started[0].data, started[0].epochs, started[0].batch_size) == ("simulated", 7, SIMULATED_RUN["batch_size"])
    data = pix_data.load_run_data(started[0], verbose=False)
    assert (len(data.train), len(data.validation), data.full_field.shape) == (0, 2, (1000, 1000, 3))


def test_real_data_precede_simulated_retinas(project, started):
    assert train.main([]) == 0
    Path("data/UT-FSOCTA-v1").rename("UT-FSOCTA-v1")
    assert train.main([]) == 0
    assert [settings.data for settings in started] == ["data/UT-FSOCTA-v1", "UT-FSOCTA-v1"]


@pytest.mark.slow
def test_run_on_simulated_retinas_is_resumed_to_the_last_bit_and_fine_tuned(simulated_folder, dataset):
    steady = [*SMALL, "--decay", "0", *L1_ONLY]
    assert train.main([*steady, "--epochs", "2", "--name", "whole"]) == 0
    assert train.main([*steady, "--epochs", "1", "--name", "parts"]) == 0
    assert train.main(["--resume", "training_checkpoints/parts", "--epochs", "2"]) == 0
    assert different_values("training_checkpoints/whole", "training_checkpoints/parts") == []
    assert len(logged("logs/fit/whole", "gen_l1_loss")) == 6  # 9 patches: 3 steps an epoch

    start = [*SMALL, "--data", str(dataset), "--epochs", "2", "--init-from", "training_checkpoints/whole"]
    assert train.main([*start, "--name", "tuned"]) == 0
    settings = json.loads(Path("training_checkpoints/tuned/run.json").read_text())["settings"]
    expected = {"mix": 0.5, "learning_rate": 2e-5, "l1_only": 1.0, "decay": 0.5, "batch_size": 3}
    assert expected.items() <= settings.items()
    assert len(logged("logs/fit/tuned", "gen_l1_loss")) == 16  # 8 real patches an epoch, one in each batch of 3


FAULT = tf.errors.AbortedError(None, None, "Operation received an exception:Status: 1, message: no primitive")


def fails(*_):
    raise FAULT  # kept with its traceback, as the error that ends a process is


def disk_is_full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "training_checkpoints/x/run.json")


WAYS_TO_END = {
    "end": (None, None, 0),
    "error in a step": ("check_finite", fails, 2),
    "error in validation": ("generate_fundus_oct_pair", fails, 2),
    "full disk": ("log_pictures", disk_is_full, 2),
    "Ctrl-C in a step": ("check_finite", None, 130),
    "Ctrl-C in validation": ("generate_fundus_oct_pair", None, 130),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fault", "status"), WAYS_TO_END.values(), ids=WAYS_TO_END)
def test_no_drawing_process_outlives_a_run(simulated_folder, monkeypatch, capsys, name, fault, status):
    processes, popen = [], subprocess.Popen

    def started(*arguments, **options):
        processes.append(popen(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr("simulation.stream.Popen", started)
    if fault is not None:
        monkeypatch.setattr(train, name, fault)
    elif name is not None:
        interrupt(monkeypatch, name, 1)
    assert train.main([*SMALL, *L1_ONLY, "--input-noise", "0", "--epochs", "1", "--name", "x"]) == status
    assert processes
    assert [process.returncode for process in processes] == [-signal.SIGKILL] * len(processes)
    if status == 2:
        assert capsys.readouterr().err.count("error: ") == 1


@pytest.mark.slow
def test_end_of_a_drawing_process_is_one_line(simulated_folder, capsys, monkeypatch):
    monkeypatch.setattr("simulation.stream.sys.executable", "/bin/false")
    assert train.main([*SMALL, "--name", "x"]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith(train.PROGRAM)]
    assert WORKER_ENDED in error


def test_simulated_retinas_continue_beyond_the_border_of_the_field():
    patches = pix_data.training_patches([], Settings(data="simulated", batch_size=2))
    both = zip(patches.draw(0), pix_data.stream(0, 0, 1), strict=False)
    pair, retina = next((pair, retina) for pair, retina in both if retina[..., 4].mean() < 0.9)
    outside = retina[..., 4] == 0
    assert not retina[outside, 3].any()
    assert np.mean(pair[outside].max(axis=-1) > 20) > 0.9


def test_simulated_retinas_have_four_octa_channels_on_request():
    settings = Settings(data="simulated", octa_channels=4, patch_size=64, batch_size=2)
    fundus, octa = next(pix_data.training_patches([], settings).batches(0, 1))
    assert (fundus.shape, octa.shape) == ((2, 64, 64, 3), (2, 64, 64, 4))
    assert np.array_equal(octa[..., 0], octa[..., 2])
    assert np.ptp(octa[..., 3]) == 0


def test_validation_of_simulated_retinas_is_the_same_for_every_seed(monkeypatch):
    monkeypatch.setattr(pix_data, "VALIDATION_RETINAS", 1)
    (one,), (other,) = (pix_data.simulated_validation(Settings(data="simulated", seed=seed)) for seed in (0, 1))
    np.testing.assert_array_equal(one.fundus, other.fundus)


def test_validation_of_simulated_retinas_has_the_octa_channels_of_the_run(monkeypatch):
    monkeypatch.setattr(pix_data, "VALIDATION_RETINAS", 1)
    (pair,) = pix_data.simulated_validation(Settings(data="simulated", octa_channels=4))
    assert pair.octa.shape == (*pair.fov.shape, 4)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--patch-size", "100"], "--patch-size"),
        (["--train-subjects", "5"], "--train-subjects"),
        (["--data", "nowhere"], "--data nowhere"),
        (["--data", "data/UT-FSOCTA-v1/cropped"], "--data data/UT-FSOCTA-v1/cropped"),
        (["--init-from", "nowhere"], "nowhere"),
        (["--resume"], "--resume"),
        (["--resume", "nowhere"], "nowhere"),
        (["--resume", "foreign"], "foreign/run.json"),
        (["--name", "taken"], "--name taken"),
    ],
)
def test_bad_options_are_refused_and_leave_nothing(project, refused, options, named):
    Path("logs/fit/taken").mkdir(parents=True)
    Path("foreign").mkdir()
    Path("foreign/run.json").write_text('{"settings": {"warm_up": 0.5}, "data_digest": "0"}')
    before = files_below(project)
    assert named in refused(train, *options)
    assert files_below(project) == before


def test_damaged_image_stops_the_run_before_training(project, refused):
    path = Path("data/UT-FSOCTA-v1/cropped/octa/disc/26_OD.png")
    path.write_bytes(path.read_bytes()[:200])
    assert str(path) in refused(train, *SMALL)
    assert not Path("training_checkpoints").exists()


def test_files_without_partner_are_counted_and_named_on_request(project, capsys):
    Path("data/UT-FSOCTA-v1/cropped/octa/disc/2_OS.png").unlink()
    settings = Settings(data="data/UT-FSOCTA-v1")
    pix_data.load_run_data(settings, verbose=False)
    assert "2_OS.png" not in capsys.readouterr().out
    pix_data.load_run_data(settings, verbose=True)
    assert "fundus/disc/2_OS.png" in capsys.readouterr().out
