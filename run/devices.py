"""The device: which one is used, in which precision it computes, and how it trains."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from run.settings import Settings

NVIDIA = (
    'the NVIDIA GPU is not used: pip install "tensorflow[and-cuda]~=2.21.0" on Linux or, on Windows, in WSL2 '
    "(see docs/training.md)"
)
Step = Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]


def set_up_gpus() -> str:
    """Let the GPUs' memory grow as needed, and describe the device that will be used."""
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if not gpus:
        # Its driver comes with this program. With CUDA_VISIBLE_DEVICES the user may have chosen the CPU.
        unused = shutil.which("nvidia-smi") and "CUDA_VISIBLE_DEVICES" not in os.environ
        return f"CPU, {os.cpu_count()} cores" + (f"; {NVIDIA}" if unused else "")
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", gpus[0].name)


def resolve_precision(choice: str) -> tuple[str, str]:
    """Keras' dtype policy for a choice of precision, and the reason for it."""
    if choice != "auto":
        return choice, "as requested"
    if gpus := tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpus[0])
        if details.get("compute_capability", (0, 0)) >= (8, 0):  # Ampere and later
            return "mixed_bfloat16", "the GPU computes in bfloat16"
        return "float32", "the GPU does not compute in bfloat16"
    cpu_info = Path("/proc/cpuinfo")  # Linux only; other systems do not tell, and emulated bfloat16 is slow
    flags = set(cpu_info.read_text().split()) if cpu_info.exists() else set()
    if flags & {"avx512_bf16", "amx_bf16", "bf16"}:  # Intel and AMD, Intel, Arm
        return "mixed_bfloat16", "the processor computes in bfloat16"
    return "float32", "the processor is not known to compute in bfloat16"


def precision_to_predict(trained_with: str) -> str:
    """The dtype policy to predict with: that of training, but float32 for bfloat16 that this machine would emulate."""
    return trained_with if trained_with == "float32" else resolve_precision("auto")[0]


def compiled(step: Step, signature: Sequence[tf.TensorSpec]) -> Step:
    """Compile a training step, (fundus, OCT-A) -> scalars by name, for batches of any length."""
    return tf.function(step, input_signature=signature)


class Adam(keras.optimizers.Adam):
    """Keras' Adam with TensorFlow's fused kernel, which updates each weight in one pass, without copies of all."""

    def update_step(self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor) -> None:
        """Update one weight and its two moments (Kingma and Ba, ICLR 2015, section 2, in the efficient order)."""
        index, step = self._get_variable_index(variable), tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(self.beta_1, step),
            beta2_power=tf.pow(self.beta_2, step),
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(gradient, variable.dtype),
        )


def new_optimizer(network: keras.Model, settings: Settings) -> keras.optimizers.Optimizer:
    """Adam for one network, built, so that a checkpoint finds its slots."""
    optimizer = Adam(settings.learning_rate, beta_1=0.5)
    optimizer.build(network.trainable_variables)
    return optimizer
