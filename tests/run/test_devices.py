"""Adam, precision, and faults of the computer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from basics.command_line import exit_status
from run.devices import Adam, precision_to_predict, set_up_gpus


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


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="TensorFlow uses the GPU")
def test_nvidia_gpu_that_is_not_used_is_named_with_what_to_install(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "NVIDIA" not in set_up_gpus()
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    assert "tensorflow[and-cuda]" in set_up_gpus()
