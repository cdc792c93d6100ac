"""Losses, the step, whole runs that are stopped and resumed, and every rejected input by its message."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import pix_pix_train as train
from dataset_load_mod import Pair
from pix_run import list_checkpoints

PROJECT = Path(__file__).resolve().parents[1]
SMALL = ["--patch-size", "64", "--batch-size", "3", "--precision", "float32"]


@pytest.fixture
def folder(tmp_path, dataset, monkeypatch):
    """An empty folder to run in, with a tiny dataset in data/."""
    (tmp_path / "data").mkdir()
    (tmp_path / "UT-FSOCTA-v1").rename(tmp_path / "data" / "UT-FSOCTA-v1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def settings():
    return train.Settings(patch_size=64, batch_size=3, precision="float32", name="x")


@pytest.fixture(scope="module")
def batch():
    random = np.random.default_rng(0)
    return [tf.constant(random.uniform(-1, 1, (3, 64, 64, n)), tf.float32) for n in (3, 1)]


def new_networks(settings):
    keras.utils.set_random_seed(settings.seed)
    return train.Pix2Pix(settings)


def all_variables(networks):
    return [
        *networks.generator.variables,
        *networks.discriminator.variables,
        *networks.generator_optimizer.variables,
        *networks.discriminator_optimizer.variables,
    ]


def checkpoint_values(folder):
    """Every value of a folder's newest checkpoint by name."""
    path = tf.train.latest_checkpoint(folder)
    assert path == list_checkpoints(Path(folder))[0]
    reader = tf.train.load_checkpoint(path)
    names = [name for name in reader.get_variable_to_shape_map() if not name.startswith("_CHECKPOINTABLE")]
    return {name: reader.get_tensor(name) for name in names}


def different_values(one, other):
    """Names of what differs in the newest checkpoints of two folders."""
    first, second = checkpoint_values(one), checkpoint_values(other)
    assert len(first) > 100
    return [
        name
        for name in first.keys() | second.keys()
        if name not in first or name not in second or not np.array_equal(first[name], second[name])
    ]


def assert_same_checkpoints(one, other):
    assert different_values(one, other) == []


def logged(folder, tag):
    """Values of a scalar by step; what a resumed run wrote replaces what came before."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return {event.step: float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)}


def tags_of(folder):
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return set(events.Tags()["tensors"])


# --- losses ----------------------------------------------------------------------------------------------------------


def test_generator_loss_by_hand():
    logits = tf.constant([[0.0], [np.log(3.0)]])  # probabilities 1/2 and 3/4 of being real
    total, gan, l1 = train.generator_loss(logits, tf.constant([[0.5, -0.5]]), tf.constant([[0.0, 0.5]]), 100.0)
    assert float(gan) == pytest.approx((np.log(2) + np.log(4 / 3)) / 2)
    assert float(l1) == pytest.approx(0.75)
    assert float(total) == pytest.approx(float(gan) + 75)


def test_discriminator_loss_by_hand():
    real, generated = tf.constant([[np.log(3.0)]], tf.float32), tf.constant([[0.0]])
    assert float(train.discriminator_loss(real, generated)) == pytest.approx(np.log(4 / 3) + np.log(2))


# --- the step --------------------------------------------------------------------------------------------------------


def test_step_is_the_same_in_eager_and_graph_mode(settings, batch):
    graph, eager = new_networks(settings), new_networks(settings)
    graph_losses, eager_losses = graph.train_step(*batch), eager._train_step(*batch)
    assert graph_losses.keys() == eager_losses.keys()
    for tag, loss in graph_losses.items():
        assert float(loss) == pytest.approx(float(eager_losses[tag]), rel=1e-5)
    for one, other in zip(graph.generator.variables, eager.generator.variables, strict=True):
        # Adam's first step is the sign of the gradient: where that is all but 0, rounding decides.
        assert np.mean(np.abs(np.asarray(one) - np.asarray(other)) > 1e-6) < 1e-3


def test_step_learns_and_is_traced_once(settings, batch):
    networks = new_networks(settings)
    losses = [float(networks.train_step(*batch)["gen_l1_loss"]) for _ in range(8)]
    assert losses[-1] < losses[0]
    networks.train_step(*(tensor[:1] for tensor in batch))  # a smaller last batch
    assert networks.train_step.experimental_get_tracing_count() == 1


def test_fused_adam_is_adam():
    weights = []
    for kind in (train.FusedAdam, keras.optimizers.Adam):
        random = np.random.default_rng(0)
        variables = [keras.Variable(random.normal(size=shape), dtype="float32") for shape in ((3, 4), (5,))]
        optimizer = kind(0.01, beta_1=0.5)
        optimizer.build(variables)
        for step in range(10):
            optimizer.learning_rate = 0.01 / (step + 1)
            optimizer.apply([tf.constant(random.normal(size=one.shape), tf.float32) for one in variables], variables)
        weights.append([one.numpy() for one in (*variables, *optimizer.variables)])
    for fused, kept in zip(*weights, strict=True):
        np.testing.assert_allclose(fused, kept, rtol=1e-5, atol=1e-6)


def test_warm_up_step_lowers_the_error_and_leaves_the_discriminator(settings, batch):
    networks = new_networks(settings)
    before = [variable.numpy() for variable in networks.discriminator.variables]
    losses = [networks.warm_up_step(*batch) for _ in range(6)]
    assert set(losses[0]) == {"gen_l1_loss"}
    assert losses[-1]["gen_l1_loss"] < 0.9 * losses[0]["gen_l1_loss"]
    after = [variable.numpy() for variable in networks.discriminator.variables]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert networks.warm_up_step.experimental_get_tracing_count() == 1


def test_mixed_precision_trains_like_float32(settings, batch):
    exact = new_networks(settings)
    exact_losses = [exact.train_step(*batch) for _ in range(3)][-1]
    for precision in ("mixed_bfloat16", "mixed_float16"):
        mixed = new_networks(replace(settings, precision=precision))
        mixed_losses = [mixed.train_step(*batch) for _ in range(3)][-1]
        keras.config.set_dtype_policy("float32")
        for tag, loss in exact_losses.items():
            assert mixed_losses[tag].dtype == tf.float32
            assert float(mixed_losses[tag]) == pytest.approx(float(loss), rel=0.05)


# --- prediction ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(settings, batch):
    networks = new_networks(settings)
    networks.warm_up_step(*batch)
    return networks


def test_validation_changes_nothing(trained):
    random = np.random.default_rng(1)
    before = [variable.numpy().copy() for variable in all_variables(trained)]
    fundus, octa = (random.integers(0, 256, (150, 100, channels), dtype=np.uint8) for channels in (3, 1))
    train.generate_fundus_oct_pair(trained, Pair(fundus, octa, np.ones((150, 100), bool)))
    after = [variable.numpy().copy() for variable in all_variables(trained)]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_pair_is_black_outside_the_field_and_scored_inside(trained):
    random = np.random.default_rng(2)
    fov = np.zeros((80, 80), bool)
    fov[:, :50] = True
    octa = random.integers(0, 256, (80, 80, 1), dtype=np.uint8)
    pair = Pair(random.integers(0, 256, (80, 80, 3), dtype=np.uint8) * fov[..., np.newaxis], octa, fov)
    predicted, scores = train.generate_fundus_oct_pair(trained, pair)
    assert not predicted[:, 50:].any()
    assert predicted[:, :50].any()
    assert scores["mae"] == pytest.approx(np.abs(predicted[..., 0] - octa[..., 0] / 255)[fov].mean(), rel=1e-4)
    assert set(scores) == set(train.SCORE_NAMES)


# --- whole runs ------------------------------------------------------------------------------------------------------


def test_four_epochs_equal_two_and_two_resumed(folder, capsys):
    assert train.main([*SMALL, "--epochs", "4", "--name", "whole"]) == 0
    assert train.main([*SMALL, "--epochs", "2", "--name", "parts"]) == 0
    assert train.main(["--resume", "training_checkpoints/parts", "--epochs", "4", "--cache", "disk"]) == 0
    assert_same_checkpoints("training_checkpoints/whole", "training_checkpoints/parts")
    assert_same_checkpoints("training_checkpoints/whole/best", "training_checkpoints/parts/best")
    for tag in ("gen_total_loss", "gen_gan_loss", "gen_l1_loss", "disc_loss", "validation/mae"):
        losses = logged("logs/fit/whole", tag)
        assert losses == logged("logs/fit/parts", tag)
    assert list(logged("logs/fit/parts", "disc_loss")) == list(range(1, 13))  # 8 patches: 3 steps an epoch
    assert Path("logs/fit/whole/metrics.csv").read_text() == Path("logs/fit/parts/metrics.csv").read_text()

    # What a run writes and says.
    assert tags_of("logs/fit/whole") == {
        *("gen_total_loss", "gen_gan_loss", "gen_l1_loss", "disc_loss", "disc_real_mean", "disc_generated_mean"),
        *("images_per_second", "settings", "Fundus", "Target OCT", "Predicted OCT", "Whole Fundus"),
        *(f"validation/{name}" for name in train.SCORE_NAMES),
    }
    rows = list(csv.DictReader(Path("logs/fit/whole/metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert float(rows[-1]["mae"]) == pytest.approx(logged("logs/fit/whole", "validation/mae")[12], rel=1e-6)
    saved = json.loads(Path("training_checkpoints/whole/run.json").read_text())
    assert saved["settings"]["patch_size"] == 64
    printed = capsys.readouterr().out
    assert "train        2 subjects,   2 pairs (disc 2, macula 0)" in printed
    assert "tensorboard --logdir=logs" in printed

    # And what a resumed run refuses.
    def refused(*options):
        assert train.main(["--resume", *options]) == 2
        return capsys.readouterr().err

    assert "has its 4 epochs already; give a larger --epochs" in refused("training_checkpoints/parts")
    clash = refused("training_checkpoints/parts", "--seed", "3", "--no-augment", "--epochs", "9")
    assert re.search(r"other settings: --augment False \(was True\), --seed 3 \(was 0\)", clash)
    other = Image.open("data/UT-FSOCTA-v1/cropped/fundus/disc/1_OD.png").transpose(Image.Transpose.ROTATE_180)
    other.save("data/UT-FSOCTA-v1/cropped/fundus/disc/1_OD.png")
    assert "not the training and validation images that the run was made with" in refused("--epochs", "9")
    for path in Path("training_checkpoints/parts").rglob("*.data-*"):
        os.truncate(path, 1000)
    kept = {path: path.read_bytes() for path in Path("training_checkpoints/parts").rglob("*.*")}
    Path("data/UT-FSOCTA-v1").rename("moved")
    assert "is gone; name the data's new place with --data" in refused("training_checkpoints/parts", "--epochs", "9")
    Image.open("moved/cropped/fundus/disc/1_OD.png").transpose(Image.Transpose.ROTATE_180).save(
        "moved/cropped/fundus/disc/1_OD.png"
    )
    damaged = refused("training_checkpoints/parts", "--epochs", "9", "--data", "moved")
    assert re.search(r"ckpt-12: damaged, or of another model \(Read less bytes.*\), and \d older ones too\n", damaged)
    assert all(path.read_bytes() == content for path, content in kept.items())


def test_signal_saves_and_the_resumed_run_equals_an_unbroken_one(folder):
    command = [sys.executable, str(PROJECT / "pix_pix_train.py"), *SMALL, "--epochs", "200", "--name", "broken"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            if line.startswith("  validation:"):  # after the first epoch
                break
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert "python pix_pix_train.py --resume training_checkpoints/broken" in output
    assert "Traceback" not in output
    stopped = checkpoint_values("training_checkpoints/broken")
    step, epoch = (int(value) for name in ("step/", "epoch/") for key, value in stopped.items() if key.startswith(name))
    epochs = str(epoch + 2)
    assert 3 * epoch <= step < 3 * (epoch + 1)
    assert train.main(["--resume", "--epochs", epochs]) == 0
    assert train.main([*SMALL, "--epochs", epochs, "--name", "whole"]) == 0
    assert_same_checkpoints("training_checkpoints/whole", "training_checkpoints/broken")


def test_learning_rate_by_hand():
    falling = train.Settings(learning_rate=1.0, decay=0.5)
    assert [train.learning_rate(falling, step, 8) for step in range(1, 9)] == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert {train.learning_rate(train.Settings(learning_rate=1.0), step, 8) for step in range(1, 9)} == {1}


def test_warm_up_and_falling_rate_go_on_where_they_stood(folder, monkeypatch):
    run = [*SMALL, "--epochs", "2", "--warm-up", "0.5", "--decay", "1"]  # 3 steps an epoch
    assert train.main([*run, "--name", "whole"]) == 0
    with monkeypatch.context() as patched:
        check = train.check_finite

        def stop_after_the_fourth(losses, step, folder):
            check(losses, step, folder)
            if step == 4:
                signal.raise_signal(signal.SIGINT)

        patched.setattr(train, "check_finite", stop_after_the_fourth)
        assert train.main([*run, "--name", "parts"]) == 130
    assert train.main(["--resume", "training_checkpoints/parts"]) == 0
    assert_same_checkpoints("training_checkpoints/whole", "training_checkpoints/parts")
    values = checkpoint_values("training_checkpoints/parts")
    assert [value for name, value in values.items() if "learning_rate" in name] == [pytest.approx(2e-4 / 6)] * 2
    assert list(logged("logs/fit/parts", "gen_l1_loss")) == [1, 2, 3, 4, 5, 6]
    assert list(logged("logs/fit/parts", "disc_loss")) == [4, 5, 6]


def test_non_finite_loss_stops_and_leaves_the_last_checkpoint(folder, capsys):
    assert train.main([*SMALL, "--epochs", "1", "--name", "good"]) == 0
    before = checkpoint_values("training_checkpoints/good")
    assert train.main([*SMALL, "--epochs", "9", "--name", "bad", "--learning-rate", "1e35"]) == 2
    assert re.search(r"\w+_loss is (nan|inf|-inf) at step \d+: stopped; the last good", capsys.readouterr().err)
    assert tf.train.latest_checkpoint("training_checkpoints/bad") is None

    # Fine-tuning from the good one, with fresh optimisers.
    start = [*SMALL, "--epochs", "1", "--mix", "0", "--name", "tuned", "--init-from", "training_checkpoints/good"]
    assert train.main([*start, "--learning-rate", "1e-30"]) == 0
    after = checkpoint_values("training_checkpoints/tuned")
    weights = [name for name in before if "_trainable_variables" in name]  # where TensorFlow files them
    assert len(weights) == 33 + 9  # of the generator and of the discriminator
    for name in weights:
        assert np.array_equal(before[name], after[name])
    assert train.main([*start[:-3], "other", *start[-2:], "--octa-channels", "4"]) == 2
    assert "its --octa-channels is 1, this run's 4" in capsys.readouterr().err
    assert train.main([*start[:-3], "other", *start[-2:], "--upsampling", "resize"]) == 2
    assert "its --upsampling is transposed, this run's resize" in capsys.readouterr().err
    assert not Path("training_checkpoints/other").exists()


@pytest.fixture
def sample_folder(tmp_path, monkeypatch):
    """An empty folder to run in, where few sample retinas do, for validation and for an epoch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train.phantom_retina, "DEFAULT_SUBJECTS", "1,26,31")
    monkeypatch.setattr("patch_batches.DRAWN_PER_EPOCH", 9)
    return tmp_path


def test_sample_retinas_stand_in_for_missing_data_with_a_notice(sample_folder, monkeypatch, capsys):
    found = []
    monkeypatch.setattr(train, "train", lambda settings, *_: found.append(settings) or 0)
    assert train.main([]) == 0
    assert train.main(["--epochs", "7"]) == 0
    assert "NO REAL DATA" in capsys.readouterr().out
    assert (found[0].data, found[0].epochs) == ("phantom", train.SAMPLE_RUN["epochs"])
    assert (found[0].batch_size, found[1].epochs) == (train.SAMPLE_RUN["batch_size"], 7)
    cases = train.load_run_data(found[0], verbose=False)
    assert (len(cases.train), len(cases.held_out)) == (0, 2)
    assert cases.full_field.shape == (1000, 1000, 3)


def test_run_on_drawn_retinas_is_resumed_to_the_last_bit_and_fine_tuned(sample_folder, dataset, capsys):
    steady = [*SMALL, "--decay", "0", "--warm-up", "1"]  # the generator alone is soon built
    assert train.main([*steady, "--epochs", "2", "--name", "whole"]) == 0
    assert train.main([*steady, "--epochs", "1", "--name", "parts"]) == 0
    assert train.main(["--resume", "training_checkpoints/parts", "--epochs", "2"]) == 0
    assert_same_checkpoints("training_checkpoints/whole", "training_checkpoints/parts")
    assert logged("logs/fit/whole", "gen_l1_loss") == logged("logs/fit/parts", "gen_l1_loss")
    assert len(logged("logs/fit/whole", "gen_l1_loss")) == 6  # 9 patches: 3 steps an epoch

    # Fine-tuning on real pairs mixes sample retinas in, at a lower rate, unless told otherwise.
    start = [*SMALL, "--data", str(dataset), "--epochs", "2", "--init-from", "training_checkpoints/whole"]
    assert train.main([*start, "--name", "tuned"]) == 0
    settings = json.loads(Path("training_checkpoints/tuned/run.json").read_text())["settings"]
    assert {name: settings[name] for name in ("mix", "learning_rate", "warm_up", "decay")} == {
        **{"mix": 0.5, "learning_rate": 2e-5, "warm_up": 1.0, "decay": 0.5}
    }
    assert settings["batch_size"] == 3
    assert len(logged("logs/fit/tuned", "gen_l1_loss")) == 16  # 8 real patches an epoch, one in each batch of 3
    assert "disc_loss" not in tags_of("logs/fit/tuned")
    assert "50% of each batch are sample retinas" in capsys.readouterr().out


def test_end_of_a_drawing_process_is_one_line(sample_folder, capsys, monkeypatch):
    monkeypatch.setattr(train.phantom_retina.sys, "executable", "/bin/false")
    assert train.main([*SMALL, "--name", "x"]) == 2
    assert "error: a process that draws sample retinas has ended" in capsys.readouterr().err


def test_drawn_retinas_go_on_over_the_border_of_the_field():
    patches = train.training_patches([], train.Settings(data="phantom", batch_size=2))
    drawn = zip(patches.draw(0), train.phantom_retina.stream(0, 0, 1), strict=False)
    pair, retina = next((pair, retina) for pair, retina in drawn if retina[..., 4].mean() < 0.9)
    outside = retina[..., 4] == 0
    assert not retina[outside, 3].any()
    assert pair.shape == (400, 400, 4)
    assert np.mean(pair[outside].max(axis=-1) > 20) > 0.9


def test_drawn_retinas_have_four_octa_channels_on_request():
    patches = train.training_patches([], train.Settings(data="phantom", octa_channels=4, patch_size=64, batch_size=2))
    fundus, octa = next(patches.batches(0, 1))
    assert (fundus.shape, octa.shape) == ((2, 64, 64, 3), (2, 64, 64, 4))
    assert np.array_equal(octa[..., 0], octa[..., 2])
    assert np.ptp(octa[..., 3]) == 0


def test_real_data_go_before_sample_retinas_and_the_defaults_are_published(folder, monkeypatch):
    found = []
    monkeypatch.setattr(train, "train", lambda settings, *_: found.append(settings) or 0)
    assert train.main([]) == 0
    Path("data/UT-FSOCTA-v1").rename("UT-FSOCTA-v1")
    assert train.main([]) == 0
    assert [settings.data for settings in found] == ["data/UT-FSOCTA-v1", "UT-FSOCTA-v1"]
    published = {"patch_size": 256, "batch_size": 32, "epochs": 250, "lambda_l1": 100.0, "learning_rate": 2e-4}
    assert published.items() <= asdict(found[0]).items()


# --- rejected input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--patch-size", "100"], r"--patch-size 100: must be a multiple of 64 px"),
        (["--epochs", "0"], r"--epochs 0: must be from 1 to"),
        (["--batch-size", "-3"], r"--batch-size -3: must be from 1 to"),
        (["--keep", "0"], r"--keep 0: must be from 1 to"),
        (["--seed", "-1"], r"--seed -1: must be from 0"),
        (["--learning-rate", "nan"], r"--learning-rate nan: must be above 0"),
        (["--warm-up", "-1"], r"--warm-up -1.0: must be from 0 to 1"),
        (["--decay", "2"], r"--decay 2.0: must be from 0 to 1"),
        (["--lambda-l1", "-1"], r"--lambda-l1 -1.0: must not be negative"),
        (["--name", "../x"], r"--name '../x': must be a plain folder name"),
        (["--epochs", "many"], r"argument --epochs: invalid int value: 'many'"),
        (["--epoch", "3"], r"unrecognized arguments: --epoch 3"),
        (["--octa-channels", "2"], r"argument --octa-channels: invalid choice: 2"),
        (["--train-subjects", "1-", "--data", "data"], r"--train-subjects: .*1-"),
        (["--train-subjects", "1-26"], r"--train-subjects and --val-subjects: subject 26 stands in both"),
        (["--test-subjects", "3,26"], r"--train-subjects and --test-subjects: subject 3 stands in both"),
        (["--train-subjects", "5"], r"no case of --train-subjects 5; subjects there: 1, 2, 26, 31"),
        (["--data", "nowhere"], r"--data nowhere: holds no UT-FSOCTA-v1"),
        (["--data", "data/UT-FSOCTA-v1/cropped"], r"--data data/UT-FSOCTA-v1/cropped: holds no UT-FSOCTA-v1"),
        (["--mix", "1"], r"--mix 1.0: must be from 0 to below 1"),
        (["--mix", "0.5", "--data", "phantom"], r"--mix and --data phantom: all are sample retinas already"),
        (["--mix", "0.5", "--batch-size", "1"], r"--mix 0.5: a --batch-size of 1 can't be mixed"),
        (["--data", "phantom", "--no-augment"], r"--no-augment: sample retinas are always cut at random"),
        (["--data", "phantom", "--patch-size", "448"], r"--patch-size 448: sample retinas have 400 px"),
        (["--init-from", "nowhere"], r"nowhere: is no run"),
        (["--init-from", "nowhere", "--resume"], r"--resume"),
        (["--resume"], r"--resume: no run with a checkpoint in training_checkpoints"),
        (["--resume", "nowhere"], r"nowhere: is no run"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(folder, capsys, options, message):
    before = sorted(folder.rglob("*"))
    try:
        status = train.main(options)
    except SystemExit as stopped:  # from argparse
        status = stopped.code
    assert status == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.startswith("pix_pix_train.py: error: ")
    assert error.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


def test_damaged_image_stops_the_run_before_training(folder, capsys):
    path = Path("data/UT-FSOCTA-v1/cropped/octa/disc/26_OD.png")
    path.write_bytes(path.read_bytes()[:200])
    assert train.main(SMALL) == 2
    assert f"{path}: cannot be read as an image" in capsys.readouterr().err
    assert not Path("training_checkpoints").exists()


def test_name_that_is_taken_is_refused(folder, capsys):
    Path("logs/fit/old").mkdir(parents=True)
    assert train.main([*SMALL, "--name", "old"]) == 2
    assert "--name old: logs/fit/old exists; take another name, or --resume" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{}", '{"settings": {"exec": 1}, "data_digest": "0"}', "[1]"])
def test_foreign_run_is_refused(folder, capsys, content):
    run = Path("training_checkpoints/foreign")
    run.mkdir(parents=True)
    (run / "run.json").write_text(content)
    assert train.main(["--resume", str(run)]) == 2
    assert f"{run / 'run.json'}: damaged, or not of this program" in capsys.readouterr().err


def test_verbose_names_the_files_without_partner(folder, capsys, monkeypatch):
    Path("data/UT-FSOCTA-v1/cropped/octa/disc/2_OS.png").unlink()
    settings = train.Settings(data="data/UT-FSOCTA-v1")
    train.load_run_data(settings, verbose=False)
    assert "1 files have no partner; --verbose names them" in capsys.readouterr().out
    train.load_run_data(settings, verbose=True)
    assert "fundus/disc/2_OS.png" in capsys.readouterr().out


def test_help_gives_every_setting_with_its_default(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    text = capsys.readouterr().out
    for name in ("data", "epochs", "batch-size", "patch-size", "lambda-l1", "learning-rate", "octa-channels"):
        assert f"--{name}" in text
    for name in ("precision", "seed", "name", "logs", "checkpoints", "keep", "resume", "init-from"):
        assert f"--{name}" in text
    for name in ("no-augment", "no-fov-mask", "train-subjects", "val-subjects", "test-subjects"):
        assert f"--{name}" in text
    assert "(default: 250)" in text
    assert "(default: 31-112)" in text
