"""Adam, and training on several devices and in several processes: same losses, one that writes, one that is lost."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import PROJECT, checkpoint_values, fake_fundus, narrow_program

import pix_pix_train as train
from basics.command_line import UserError, exit_status
from run.checkpoints import RunState
from run.devices import (
    Adam,
    check_shares,
    compiled,
    errors_in_one_line,
    precision_to_predict,
    set_up_gpus,
)
from run.predict import without_dropout
from run.settings import Settings, SettingsError

OPTIONS = ["--patch-size", "64", "--batch-size", "4", "--precision", "float32"]
SETTINGS = Settings(patch_size=64, batch_size=5, precision="float32", name="x", learning_rate=3e-6)
# Adam's first steps follow the signs of gradients. Where one is nearly 0 rounding decides; a low rate keeps that small.


def test_adam_is_keras_adam():
    weights = []
    for kind in (Adam, keras.optimizers.Adam):
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


# In a process of its own, since the CPU can be divided only before TensorFlow has used it.
ON_TWO_DEVICES = """
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np
import tensorflow as tf
from run.devices import choose_strategy, resolve_precision
from pix_layers import Dropout
from narrow import narrow_networks
from test_devices import SETTINGS, eleven_steps

narrow_networks()
settings = replace(SETTINGS, devices=2)
strategy = choose_strategy(settings)
assert strategy.num_replicas_in_sync == 2
folder = Path(sys.argv[1])
with strategy.scope():
    dropout = Dropout(0.5)
masks = strategy.experimental_local_results(strategy.run(lambda: dropout(tf.ones((1, 100)), training=True)))
assert {value for mask in masks for value in mask[0].numpy()} == {0, 2}
assert 20 < (masks[0] != masks[1]).numpy().sum() < 80
np.save(folder / "two.npy", eleven_steps(settings, strategy, folder, "two", "one"))
"""


def new_state(networks, folder):
    folder.mkdir(exist_ok=True)
    return RunState(networks, folder, keep=1)


def eleven_steps(settings, strategy, folder, mine, other):
    """Losses (11, 6): ten steps from the start, saved as `mine`; and one step from the checkpoint of `other`."""
    keras.utils.set_random_seed(0)
    with strategy.scope():
        networks = train.Pix2Pix(settings)
    train_step = compiled(networks.train_step, networks.signature, strategy)
    state = new_state(networks, folder / mine)
    batch = np.load(folder / "batch.npz")
    losses = []
    with without_dropout(networks.generator):  # each device draws its own masks
        for step in range(11):
            if step == 10:
                state.step.assign(step)
                state.save()
                if not new_state(networks, folder / other).restore():
                    break
            size = 4 if step % 3 == 2 else 5  # the last batch of an epoch may be smaller
            of_step = train_step(*(tf.constant(batch[name][:size]) for name in ("fundus", "octa")))
            losses.append([float(of_step[tag]) for tag in sorted(of_step)])
    assert train_step.experimental_get_tracing_count() == 1
    return np.array(losses)


@pytest.mark.slow
def test_two_devices_give_the_losses_of_one_and_checkpoints_move_both_ways(tmp_path):
    random = np.random.default_rng(0)
    fundus = np.stack([fake_fundus(random, 64, 64) for _ in range(5)]).astype(np.float32) / 127.5 - 1
    np.savez(tmp_path / "batch.npz", fundus=fundus, octa=-fundus[..., 1:2])
    one = eleven_steps(SETTINGS, tf.distribute.get_strategy(), tmp_path, "one", "nowhere")
    paths = PROJECT, PROJECT / "tests", PROJECT / "tests" / "run"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, "-c", ON_TWO_DEVICES, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    two = np.load(tmp_path / "two.npy")
    assert (one.shape, two.shape) == ((10, 6), (11, 6))
    assert one[-1, -1] < one[0, -1] - 0.05  # they did learn
    np.testing.assert_allclose(two[:10], one, rtol=1e-4)

    networks = train.Pix2Pix(SETTINGS)
    assert new_state(networks, tmp_path / "two").restore()
    with without_dropout(networks.generator):
        losses = networks.train_step(tf.constant(fundus), tf.constant(-fundus[..., 1:2]))
    assert two[10, -1] < one[0, -1] - 0.05  # two devices continue what one device has learned
    np.testing.assert_allclose([float(losses[tag]) for tag in sorted(losses)], two[10], rtol=1e-3)


def free_ports(number):
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [one.getsockname()[1] for one in sockets]


def start_workers(folder, options):
    """Two processes that train together over the loopback; the first writes."""
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    return [
        subprocess.Popen(
            narrow_program("pix_pix_train.py", *options),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ
            | {"TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": number}})},
        )
        for number in range(2)
    ]


@pytest.mark.slow
def test_two_processes_train_and_resume_after_one_is_lost(project, tmp_path):
    generator_alone = ["--l1-only", "1"]  # is built soon
    chief, other = start_workers(tmp_path, [*OPTIONS, *generator_alone, "--epochs", "400", "--name", "x"])
    next(line for line in chief.stdout if "validation:" in line)
    other.send_signal(signal.SIGKILL)
    other.communicate()
    last_line = chief.communicate(timeout=120)[0].splitlines()[-1]
    assert chief.returncode == 2
    assert "another worker is lost" in last_line
    epoch = int(checkpoint_values(tmp_path / "training_checkpoints/x/best")["epoch/.ATTRIBUTES/VARIABLE_VALUE"])

    resumed = start_workers(tmp_path, ["--resume", "training_checkpoints/x", "--epochs", str(epoch + 1)])
    outputs = [process.communicate(timeout=200)[0] for process in resumed]
    assert [process.returncode for process in resumed] == [0, 0], outputs
    assert [output.count("validation:") for output in outputs] == [1, 0]
    rows = (tmp_path / "logs/fit/x/metrics.csv").read_text().splitlines()
    assert [int(row.split(",")[0]) for row in rows[1:]] == list(range(1, epoch + 2))


def test_batch_smaller_than_the_devices_is_refused():
    two = SimpleNamespace(num_replicas_in_sync=2)
    check_shares(34, 32, two)
    with pytest.raises(SettingsError, match="--batch-size 32"):
        check_shares(33, 32, two)


def test_broken_cluster_description_is_refused(project, monkeypatch, refused):
    monkeypatch.setenv("TF_CONFIG", "{not json")
    assert "TF_CONFIG" in refused(train, *OPTIONS)
    assert not (project / "training_checkpoints").exists()


def test_precision_that_this_machine_would_emulate_is_not_predicted_with(monkeypatch):
    monkeypatch.setattr("run.devices.Path.exists", lambda _: False)  # no processor known to compute in bfloat16
    assert precision_to_predict("mixed_bfloat16") == "float32"


# --- faults of the computer ------------------------------------------------------------------------------------------

ONE_DNN = "Operation received an exception:Status: 1, message: could not create a primitive, in file x.cc:546"


def raising(kind, message):
    def work():
        raise getattr(tf.errors, kind)(None, None, message)

    return work


def within_tf_data(error):
    def fail():
        raise error

    return lambda: next(iter(tf.data.Dataset.range(1).map(lambda _: tf.numpy_function(fail, [], tf.int64))))


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (within_tf_data(MemoryError("std::bad_alloc")), "out of memory"),
        (raising("AbortedError", ONE_DNN), "out of memory"),
        (raising("ResourceExhaustedError", "OOM when allocating tensor with shape[4,4,512,512]"), "out of memory"),
        (raising("InternalError", "cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY: out of memory"), "out of memory"),
        (raising("InternalError", "cuDNN launch failure\n in x"), "the computation failed (cuDNN launch failure)"),
    ],
    ids=["tf.data", "oneDNN", "TensorFlow", "CUDA", "cuDNN"],
)
def test_fault_of_the_computer_is_one_line_whatever_noticed_it(work, said, capsys):
    assert exit_status("program", work, "stopped", "use less") == 2
    assert capsys.readouterr().err == f"program: error: {said}; use less\n"


def test_mistake_of_the_program_within_tensorflow_is_not_taken_for_a_fault_of_the_computer():
    with pytest.raises(tf.errors.UnknownError):
        exit_status("program", within_tf_data(KeyError("x")), "stopped")


@pytest.mark.parametrize(
    ("message", "kind"), [("aborted by: worker 1 is down", UserError), (ONE_DNN, tf.errors.AbortedError)]
)
def test_lost_worker_is_one_line_and_no_lack_of_memory(monkeypatch, message, kind):
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(kind), errors_in_one_line():
        raising("AbortedError", message)()


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="TensorFlow uses the GPU")
def test_nvidia_gpu_that_is_not_used_is_named_with_what_to_install(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "NVIDIA" not in set_up_gpus()
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    assert "tensorflow[and-cuda]" in set_up_gpus()
