"""Whole runs: stopped and resumed, fine-tuned, on simulated retinas, and what is refused."""

import shutil
import signal
import subprocess
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import SMALL, checkpoint_values, different_values, files_below, logged, tags_of, write_tiny_dataset
from PIL import Image

import pix_pix_gen as gen
import pix_pix_train as train
import run.data
from retina.similarity import VALIDATION_SCORES
from run.checkpoints import read_run, write_run
from run.log import LOSSES, PICTURES, PROGRESS
from run.settings import FINE_TUNING, SIMULATED_RUN, Settings
from simulation.stream import WORKER_ENDED

L1_ONLY = ["--l1-only", "1"]  # such a step is built soon
SMALL_RUN = "training_checkpoints/small"
OF_OCTA = LOSSES.keys() - {"gen_vessel_loss"}


def assert_equal_runs(one, other):
    """Whether two runs have the same checkpoints, to the last bit, and the same scores."""
    for place in ("", "best"):
        assert different_values(f"training_checkpoints/{one}/{place}", f"training_checkpoints/{other}/{place}") == []
    tables = [Path("logs/fit", name, "metrics.csv").read_text() for name in (one, other)]
    assert tables[0] == tables[1]


# --- what a run writes -----------------------------------------------------------------------------------------------


@pytest.fixture
def logs(small_run):
    """The logs of the small run: two epochs of three steps."""
    return small_run.parents[1] / "logs" / "fit" / "small"


def test_run_logs_every_tag(logs):
    of_epochs = {f"epoch/{tag}" for tag in OF_OCTA} | {f"validation/{name}" for name in VALIDATION_SCORES}
    others = {"_hparams_/experiment", "_hparams_/session_start_info", "custom_scalars__config__"}
    assert tags_of(logs) == {*OF_OCTA, *PROGRESS, *PICTURES} | of_epochs | others
    assert list(logged(logs, "disc_loss")) == [1, 2, 3, 4, 5, 6]


def test_means_of_an_epoch_and_metrics_are_what_was_logged(logs):
    losses, table = list(logged(logs, "gen_l1_loss").values()), pd.read_csv(logs / "metrics.csv")
    assert logged(logs, "epoch/gen_l1_loss")[3] == pytest.approx(np.mean(losses[:3]), rel=1e-6)
    assert table["step"].tolist() == [3, 6]
    assert table["mae"].tolist() == pytest.approx(list(logged(logs, "validation/mae").values()), rel=1e-6)


# --- stopped and resumed ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_resumed_run_equals_an_unbroken_one(trained_project):
    options = [*SMALL, "--data", str(read_run(Path(SMALL_RUN))[0].data)]
    assert train.main([*options, "--epochs", "1", "--name", "parts"]) == 0
    assert train.main(["--resume", "training_checkpoints/parts", "--epochs", "2"]) == 0
    assert_equal_runs("small", "parts")
    for tag in (*OF_OCTA, "learning_rate", "validation/mae"):
        assert logged("logs/fit/small", tag) == logged("logs/fit/parts", tag)


def rotate_images():
    for path in Path("data/UT-FSOCTA-v1").glob("cropped/*/*/*.png"):
        Image.open(path).transpose(Image.Transpose.ROTATE_180).save(path)


@pytest.mark.parametrize(
    ("options", "change", "named"),
    [
        ([], None, "--epochs"),
        (["--epochs", "9", "--seed", "3", "--no-augment"], None, "--seed 3 (was 0), --augment False (was True)"),
        (["--epochs", "9", "--data", "data"], rotate_images, "start a new run"),
        (["--epochs", "9", "--data", "nowhere"], None, "--data nowhere"),
    ],
    ids=["complete", "other settings", "other images", "no data"],
)
def test_what_cannot_be_resumed_is_refused_and_left_alone(trained_project, refused, options, change, named):
    if change:
        change()
    kept = {path: path.read_bytes() for path in Path().glob("*/**/small/*.*") if "tfevents" not in path.name}
    assert named in refused(train, "--resume", SMALL_RUN, *options)
    assert {path: path.read_bytes() for path in kept} == kept


def interrupt(monkeypatch, name, calls, number=signal.SIGINT):
    """Send a signal within a call of a function of the training program: its `calls`-th."""
    function, called = getattr(train, name), count(1)

    def interrupted(*arguments):
        if next(called) == calls:
            signal.raise_signal(number)
        return function(*arguments)

    monkeypatch.setattr(train, name, interrupted)


@pytest.mark.slow
def test_run_stopped_while_it_validates_equals_an_unbroken_one(project, monkeypatch, capsys):
    for kind in ("fundus", "octa"):  # a second pair to validate on
        folder = Path("data/UT-FSOCTA-v1/cropped", kind, "disc")
        shutil.copy(folder / "1_OD.png", folder / "27_OD.png")
    run = [*SMALL, *L1_ONLY, "--epochs", "2"]
    assert train.main([*run, "--name", "whole"]) == 0
    with monkeypatch.context() as patched:
        interrupt(patched, "generate_fundus_oct_pair", 3, signal.SIGTERM)
        assert train.main([*run, "--name", "parts"]) == 128 + signal.SIGTERM
    resume = capsys.readouterr().out.splitlines()[-1].split()  # the command as it is printed
    assert resume[:2] == ["python", train.PROGRAM]
    assert train.main(resume[2:]) == 0
    assert_equal_runs("whole", "parts")
    assert tags_of("logs/fit/whole") == tags_of("logs/fit/parts")


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", "--vessel-output --mix 0.5 --batch-size 6"])
def test_phases_noise_and_falling_rate_resume_where_they_stood(project, monkeypatch, options):
    monkeypatch.setattr("run.batches.RETINAS_PER_BLOCK", 2)
    run = [*SMALL, "--epochs", "2", "--l1-only", "0.5", "--decay", "1"]  # 3 steps an epoch
    run += ["--l1-scale", "4", "--input-noise", "0.1", *options.split()]
    assert train.main([*run, "--name", "whole"]) == 0
    with monkeypatch.context() as patched:
        interrupt(patched, "check_finite", 4)
        assert train.main([*run, "--name", "parts"]) == 130
    assert train.main(["--resume", "training_checkpoints/parts"]) == 0
    assert_equal_runs("whole", "parts")
    rates = logged("logs/fit/parts", "learning_rate")
    assert list(rates.values()) == pytest.approx([2e-4 * left / 6 for left in (6, 5, 4, 3, 2, 1)])
    assert list(logged("logs/fit/parts", "disc_loss")) == [4, 6]
    errors = logged("logs/fit/parts", "gen_l1_loss")
    assert (errors[5] < 0.7 * errors[3]) == bool(options)  # step 5, without noise: of averages alone
    assert not options or list(logged("logs/fit/parts", "gen_vessel_loss")) == [1, 2, 3, 4, 5, 6]
    # Not step 3, however it scored: the weights from before the discriminator's phase draw no speckle.
    assert tf.train.latest_checkpoint("training_checkpoints/whole/best").endswith("ckpt-6")


def test_run_whose_folder_is_deleted_stops_with_one_line(project, monkeypatch, capsys):
    monkeypatch.setattr(train, "check_finite", lambda *_: shutil.rmtree("training_checkpoints"))
    assert train.main([*SMALL[:2], "--batch-size", "9", *SMALL[4:], *L1_ONLY, "--epochs", "1", "--name", "x"]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith(train.PROGRAM)]
    assert "training_checkpoints/x was deleted" in error


def test_non_finite_loss_stops_the_run_and_saves_nothing(project, capsys):
    assert train.main([*SMALL, *L1_ONLY, "--epochs", "9", "--name", "bad", "--learning-rate", "1e35"]) == 2
    assert "gen_l1_loss is " in capsys.readouterr().err
    assert tf.train.latest_checkpoint("training_checkpoints/bad") is None


@pytest.mark.slow
def test_fine_tuning_starts_from_both_networks_of_the_other_run(trained_project):
    start = [*SMALL, "--epochs", "1", "--mix", "0", "--learning-rate", "1e-30", "--init-from", SMALL_RUN]
    assert train.main([*start, "--name", "tuned"]) == 0
    before, after = checkpoint_values(f"{SMALL_RUN}/best"), checkpoint_values("training_checkpoints/tuned")
    weights = [name for name in before if "_trainable_variables" in name]  # where TensorFlow files them
    assert len(weights) == 33 + 9  # of the generator and of the discriminator
    assert all(np.array_equal(before[name], after[name]) for name in weights)
    assert pd.read_csv("logs/fit/tuned/metrics.csv")["epoch"].tolist() == [0, 1]  # the start may be the best


@pytest.mark.slow
def test_vessel_output_is_added_to_a_run_and_used_from_one_file(trained_project, monkeypatch):
    monkeypatch.setattr("run.batches.RETINAS_PER_BLOCK", 2)
    start = [*SMALL, "--batch-size", "6", "--epochs", "1", "--init-from", SMALL_RUN, "--vessel-output"]
    assert train.main([*start, "--name", "both"]) == 0
    before, after = checkpoint_values(f"{SMALL_RUN}/best"), checkpoint_values("training_checkpoints/both")
    assert all(np.array_equal(before[name], after[name]) for name in before if name.startswith("discriminator/"))
    assert gen.main(["--run", "training_checkpoints/both", "--export", "weights", "--format", "weights"]) == 0
    photo = "data/UT-FSOCTA-v1/fov45/fundus/31_OD.jpg"
    assert gen.main([photo, "--run", "weights", "--vessels", "--fast", "--output", "out"]) == 0
    assert "31_OD_confidence.png" in files_below("out")
    assert 0 < pd.read_csv("out/densities.csv")["expected_density"][0] < 1


# --- runs on simulated retinas ----------------------------------------------------------------------------------------


@pytest.fixture
def simulated_folder(tmp_path, monkeypatch):
    """A folder with a small simulated set to run in, where two simulated retinas suffice for an epoch."""
    write_tiny_dataset(tmp_path / "data" / "simulated")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("run.data.VALIDATION_RETINAS", 2)
    monkeypatch.setattr("run.batches.SIMULATED_PATCHES_PER_EPOCH", 3)
    monkeypatch.setattr("run.batches.RETINAS_PER_BLOCK", 2)
    return tmp_path


@pytest.mark.slow
def test_without_data_a_run_on_simulated_retinas_says_so(simulated_folder, capsys):
    assert train.main([*SMALL, *L1_ONLY, "--epochs", "1", "--name", "x"]) == 0
    assert "NO REAL DATA" in capsys.readouterr().out
    settings = read_run(Path("training_checkpoints/x")).settings
    assert (settings.data, settings.lambda_l1) == ("simulated", SIMULATED_RUN["lambda_l1"])
    assert "Whole Fundus" in tags_of("logs/fit/x")


@pytest.mark.parametrize(("given", "vessel_output"), [({"batch_size": 3}, True), ({"mix": 0.0}, False)])
def test_fine_tuning_has_its_own_defaults_and_noise_and_outputs_of_the_weights(trained_project, given, vessel_output):
    shutil.copytree(SMALL_RUN, "training_checkpoints/noisy")
    settings = replace(read_run(Path(SMALL_RUN)).settings, input_noise=0.03, vessel_output=True, mix=0.1)
    write_run(Path("training_checkpoints/noisy"), settings, "0")
    tuned = asdict(train.settings_of_new_run({"init_from": "training_checkpoints/noisy", **given}))
    assert (FINE_TUNING | {"input_noise": 0.03, "vessel_output": vessel_output} | given).items() <= tuned.items()


def fails(*_):
    raise tf.errors.AbortedError(None, None, "Operation received an exception:Status: 1, message: no primitive")


@pytest.mark.slow
def test_no_drawing_process_outlives_a_run_that_fails(simulated_folder, monkeypatch):
    processes, popen = [], subprocess.Popen

    def started(*arguments, **options):
        processes.append(popen(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr("simulation.stream.Popen", started)
    monkeypatch.setattr(train, "check_finite", fails)
    assert train.main([*SMALL, *L1_ONLY, "--input-noise", "0", "--epochs", "1", "--name", "x"]) == 2
    assert processes
    assert [process.returncode for process in processes] == [-signal.SIGKILL] * len(processes)


@pytest.mark.slow
def test_end_of_a_drawing_process_is_one_line(simulated_folder, capsys, monkeypatch):
    shutil.rmtree("data")
    monkeypatch.setattr("run.new_run.DEFAULT_SUBJECTS", "26")  # of the simulated set that the run makes first
    monkeypatch.setattr("simulation.stream.sys.executable", "/bin/false")
    assert train.main([*SMALL, "--name", "x"]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith(train.PROGRAM)]
    assert WORKER_ENDED in error


@pytest.mark.parametrize("vessel_output", [True, False])
def test_a_vessel_output_is_validated_against_the_vessels_to_find(vessel_output, monkeypatch):
    monkeypatch.setattr(run.data, "VALIDATION_RETINAS", 1)
    (pair,) = run.data.simulated_validation(Settings(data="simulated", vessel_output=vessel_output, batch_size=2))
    assert (pair.drawn is not None and pair.drawn.any()) == vessel_output


def test_simulated_retinas_have_four_octa_channels_on_request_and_are_validated_alike_for_every_seed(monkeypatch):
    monkeypatch.setattr(run.data, "VALIDATION_RETINAS", 1)
    monkeypatch.setattr("run.batches.RETINAS_PER_BLOCK", 2)
    settings = Settings(data="simulated", octa_channels=4, patch_size=64, batch_size=2)
    _, octa = next(run.data.training_patches([], settings).batches(0, 1))
    assert np.array_equal(octa[..., 0], octa[..., 2])
    assert np.ptp(octa[..., 3]) == 0
    (one,), (other,) = map(run.data.simulated_validation, (settings, Settings(data="simulated", seed=1)))
    np.testing.assert_array_equal(one.fundus, other.fundus)
    np.testing.assert_array_equal(one.octa[..., :1], other.octa)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--train-subjects", "5"], "--train-subjects"),
        (["--data", "data/UT-FSOCTA-v1/cropped"], "--data data/UT-FSOCTA-v1/cropped"),
        (["--init-from", SMALL_RUN, "--octa-channels", "4", *SMALL], "--octa-channels"),
        (["--vessel-output"], "--vessel-output: it learns from simulated retinas; add --mix"),
        (["--resume", "nowhere"], "nowhere"),
        (["--resume", "foreign"], "foreign/run.json"),
        (["--resume", "--checkpoints", "none"], "--resume"),
        (["--name", "small"], "--name small"),
    ],
)
def test_bad_options_are_refused_and_leave_nothing(trained_project, refused, options, named):
    Path("foreign").mkdir()
    Path("foreign/run.json").write_text('{"settings": {"warm_up": 0.5}, "data_digest": "0"}')
    before = files_below(trained_project)
    assert named in refused(train, *options)
    assert files_below(trained_project) == before


def test_damaged_image_stops_the_run_before_training(project, refused):
    path = Path("data/UT-FSOCTA-v1/cropped/octa/disc/26_OD.png")
    path.write_bytes(path.read_bytes()[:200])
    assert str(path) in refused(train, *SMALL)
    assert not Path("training_checkpoints").exists()


def test_files_without_partner_are_counted(project, capsys):
    Path("data/UT-FSOCTA-v1/cropped/octa/disc/2_OS.png").unlink()
    run.data.load_run_data(Settings(data="data/UT-FSOCTA-v1"))
    assert "1 files have no partner; dataset_load_mod.py check lists them" in capsys.readouterr().out
