"""Training on several devices and by several processes: the same losses, one that writes, one that is lost."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import fake_fundus, write_tiny_dataset
from test_pix_pix_train import checkpoint_values

import pix_pix_train as train
from pix_pix_gen import without_dropout
from pix_settings import Settings, SettingsError

PROJECT = Path(__file__).resolve().parents[1]
OPTIONS = ["--patch-size", "64", "--batch-size", "4", "--precision", "float32"]

SETTINGS = Settings(patch_size=64, batch_size=5, precision="float32", name="x", learning_rate=3e-6)
# Adam's first steps go by the signs of gradients. Where one is all but 0 rounding decides; a low rate keeps that small.

# In a process of its own, since the CPU can be divided only before TensorFlow has used it.
ON_TWO_DEVICES = """
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np
import pix_pix_train
import tensorflow as tf
from pix_generator import Dropout
from test_distribution import SETTINGS, eleven_steps

settings = replace(SETTINGS, devices=2)
strategy = pix_pix_train.share_the_work(settings)
assert strategy.num_replicas_in_sync == 2
folder = Path(sys.argv[1])
with strategy.scope():
    dropout = Dropout(0.5)
masks = strategy.experimental_local_results(strategy.run(lambda: dropout(tf.ones((1, 100)), training=True)))
assert {value for mask in masks for value in mask[0].numpy()} == {0, 2}
assert 20 < (masks[0] != masks[1]).numpy().sum() < 80
np.save(folder / "two.npy", eleven_steps(settings, strategy, folder, "two", "one"))
"""


def eleven_steps(settings, strategy, folder, mine, other):
    """Losses (11, 6): ten steps from the start, saved as `mine`; and one step from the checkpoint of `other`."""
    keras.utils.set_random_seed(0)
    networks = train.Pix2Pix(settings, strategy)
    state = train.RunState(networks, folder / mine, keep=1)
    batch = np.load(folder / "batch.npz")
    losses = []
    with without_dropout(networks.generator):  # its masks are drawn anew on each device
        for step in range(11):
            if step == 10:
                state.step.assign(step)
                state.save()
                restored = train.RunState(networks, folder / other, keep=1)
                if not restored.restore():
                    break
            size = 4 if step % 3 == 2 else 5  # the last batch of an epoch may be smaller
            of_step = networks.train_step(*(tf.constant(batch[name][:size]) for name in ("fundus", "octa")))
            losses.append([float(of_step[tag]) for tag in sorted(of_step)])
    assert networks.train_step.experimental_get_tracing_count() == 1
    return np.array(losses)


def test_two_devices_give_the_losses_of_one_and_checkpoints_move_both_ways(tmp_path):
    random = np.random.default_rng(0)
    fundus = np.stack([fake_fundus(random, 64, 64) for _ in range(5)]).astype(np.float32) / 127.5 - 1
    np.savez(tmp_path / "batch.npz", fundus=fundus, octa=-fundus[..., 1:2])
    one = eleven_steps(SETTINGS, None, tmp_path, "one", "nowhere")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (PROJECT, PROJECT / "tests")))}
    command = [sys.executable, "-c", ON_TWO_DEVICES, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    two = np.load(tmp_path / "two.npy")
    assert (one.shape, two.shape) == ((10, 6), (11, 6))
    assert one[-1, -1] < one[0, -1] - 0.2  # they did learn
    np.testing.assert_allclose(two[:10], one, rtol=1e-4)

    networks = train.Pix2Pix(SETTINGS)
    assert train.RunState(networks, tmp_path / "two", keep=1).restore()
    with without_dropout(networks.generator):
        losses = networks.train_step(tf.constant(fundus), tf.constant(-fundus[..., 1:2]))
    assert two[10, -1] < one[0, -1] - 0.2  # what one device has learned is there on two
    np.testing.assert_allclose([float(losses[tag]) for tag in sorted(losses)], two[10], rtol=1e-3)


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start_workers(folder, options):
    """Two processes that train together over the loopback; the first writes."""
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    return [
        subprocess.Popen(
            [sys.executable, "-u", str(PROJECT / "pix_pix_train.py"), *options],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ
            | {"TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": number}})},
        )
        for number in range(2)
    ]


def test_two_processes_train_lose_one_and_go_on(tmp_path):
    write_tiny_dataset(tmp_path / "data")
    generator_alone = ["--warm-up", "1"]  # is soon built
    chief, other = start_workers(tmp_path, [*OPTIONS, *generator_alone, "--epochs", "400", "--name", "x"])
    validated = 0
    for line in chief.stdout:
        validated += "validation:" in line
        if validated == 2:
            break
    other.send_signal(signal.SIGKILL)
    told = other.communicate()[0]
    said = chief.communicate(timeout=120)[0].splitlines()[-1]
    assert chief.returncode == 2
    assert "error: another worker is lost: it ended, or cannot be reached; start all workers again" in said
    assert "Another process writes logs and checkpoints" in told
    assert [path.name for path in (tmp_path / "logs" / "fit").iterdir()] == ["x"]
    epoch = int(checkpoint_values(tmp_path / "training_checkpoints/x/best")["epoch/.ATTRIBUTES/VARIABLE_VALUE"])
    assert epoch >= 1

    resumed = start_workers(tmp_path, ["--resume", "training_checkpoints/x", "--epochs", str(epoch + 2)])
    outputs = [process.communicate(timeout=200)[0] for process in resumed]
    assert [process.returncode for process in resumed] == [0, 0], outputs
    assert all(f"Going on after epoch {epoch}" in output for output in outputs)
    assert outputs[0].count("validation:") == 2
    assert "validation:" not in outputs[1]
    rows = (tmp_path / "logs/fit/x/metrics.csv").read_text().splitlines()
    assert [int(row.split(",")[0]) for row in rows[1:]] == list(range(1, epoch + 3))


def test_unfit_numbers_of_devices_are_refused(monkeypatch):
    with pytest.raises(SettingsError, match="--devices 5: must be from 0 to the --batch-size, 4"):
        Settings(devices=5, batch_size=4)
    patches = train.DrawnPatches(draw=None, size=96, channels=1, patch_size=64, batch_size=3, seed=0)
    train.check_shares(patches, 3)
    patches.patches_per_epoch = 10
    with pytest.raises(SettingsError, match="the last batch of an epoch has 1 patches for 2 devices"):
        train.check_shares(patches, 2)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a", "b"] if kind == "GPU" else [])
    with pytest.raises(SettingsError, match="--devices 3: there are 2 GPUs"):
        train.share_the_work(Settings(devices=3))


def test_broken_cluster_description_is_one_line(tmp_path):
    write_tiny_dataset(tmp_path / "data")
    done = subprocess.run(
        [sys.executable, str(PROJECT / "pix_pix_train.py"), *OPTIONS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"TF_CONFIG": "{not json"},
        check=False,
    )
    assert done.returncode == 2
    assert re.fullmatch(r"pix_pix_train.py: error: TF_CONFIG: .*\n", done.stderr)
    assert not (tmp_path / "training_checkpoints").exists()
