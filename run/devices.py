"""Devices: which are available, in which precision they compute, and how they share a batch."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import keras
import tensorflow as tf

from basics.command_line import OUT_OF_MEMORY, OptionError, UserError, fault_of_machine
from run.settings import Settings, SettingsError

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
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        if all(detail.get("compute_capability", (0, 0)) >= (8, 0) for detail in details):  # Ampere and later
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


def choose_strategy(settings: Settings) -> tf.distribute.Strategy:
    """How to train on the available devices: one, several, or together with other workers listed in TF_CONFIG.

    With TF_CONFIG, all devices of a worker take part. Otherwise `--devices` of them do or, by default, all GPUs, at
    most one per patch of a batch.

    Raises:
        SettingsError: there are fewer GPUs.
        OptionError: TF_CONFIG cannot be used.
    """
    if "TF_CONFIG" in os.environ:
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except (ValueError, KeyError, TypeError, RuntimeError, tf.errors.OpError) as error:
            raise OptionError(f"TF_CONFIG: {error}") from error
    gpus, devices = tf.config.list_physical_devices("GPU"), settings.devices
    if devices > len(gpus) > 0:
        raise SettingsError(f"--devices {devices}: only {len(gpus)} available")
    if devices > 1 and not gpus:
        parts = [tf.config.LogicalDeviceConfiguration()] * devices
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
    kind, number = ("GPU", devices or min(len(gpus), settings.batch_size)) if gpus else ("CPU", devices)
    if number > 1:
        return tf.distribute.MirroredStrategy([f"{kind}:{index}" for index in range(number)])
    return tf.distribute.get_strategy()


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes logs and checkpoints: the first worker, or the only one."""
    resolver = strategy.cluster_resolver
    if resolver is None or resolver.task_type != "worker":  # a lone process, or TF_CONFIG's "chief"
        return True
    return resolver.task_id == 0 and "chief" not in resolver.cluster_spec().as_dict()


def check_shares(patches: int, batch_size: int, strategy: tf.distribute.Strategy) -> None:
    """Raises SettingsError if the last batch of an epoch of so many patches has fewer than one for each device."""
    devices, smallest = strategy.num_replicas_in_sync, patches % batch_size or batch_size
    if smallest < devices:
        raise SettingsError(
            f"--batch-size {batch_size}: the last batch of an epoch has {smallest} patches "
            f"for {devices} devices; choose another size, or fewer --devices"
        )


# --- sharing a batch among devices -----------------------------------------------------------------------------------


def compiled(step: Step, signature: Sequence[tf.TensorSpec], strategy: tf.distribute.Strategy) -> Step:
    """Compile a training step, to be called with batches of any length; several devices share each batch.

    The step computes means over its images, as if they were the whole batch. Each device's losses and gradients
    (`Adam.apply`) are weighted by its share of the batch, so that their sums over devices are the means over the batch.

    Args:
        step: (fundus, OCT-A) -> scalars by name.
        signature: of both images.
        strategy: the devices.
    """
    if strategy.num_replicas_in_sync == 1:
        return tf.function(step, input_signature=signature)

    def step_on_part(input_image: tf.Tensor, target: tf.Tensor) -> dict[str, tf.Tensor]:
        replica = tf.distribute.get_replica_context()
        number, parts = replica.replica_id_in_sync_group, replica.num_replicas_in_sync
        total = tf.shape(input_image)[0]
        with tf.device("CPU:0"):  # the device receives only its part
            input_image, target = input_image[number::parts], target[number::parts]
        Adam.share.of_batch = tf.cast(tf.shape(input_image)[0], tf.float32) / tf.cast(total, tf.float32)
        return {name: Adam.share.of_batch * loss for name, loss in step(input_image, target).items()}

    def shared_step(input_image: tf.Tensor, target: tf.Tensor) -> dict[str, tf.Tensor]:
        losses = strategy.run(step_on_part, args=(input_image, target))
        return {name: strategy.reduce(tf.distribute.ReduceOp.SUM, loss, axis=None) for name, loss in losses.items()}

    return tf.function(shared_step, input_signature=signature)


class Adam(keras.optimizers.Adam):
    """Keras' Adam, with two differences.

    TensorFlow's fused kernel updates each weight in one pass, without copies of all weights. And on several devices,
    whose gradients are summed, each counts as its device's share of the batch, see `compiled`.
    """

    share = threading.local()  # `of_batch`, on several devices: each is traced in its own thread

    def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Sequence[keras.Variable] | None = None) -> None:
        """Update the weights."""
        of_batch = getattr(self.share, "of_batch", None)
        if of_batch is not None:
            grads = [of_batch * gradient for gradient in grads]
        super().apply(grads, trainable_variables)

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


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Turn TensorFlow's errors about lost workers into a UserError; on one computer, they have other reasons."""
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        if "TF_CONFIG" not in os.environ or fault_of_machine(error) == OUT_OF_MEMORY:
            raise
        advice = "it ended, or cannot be reached; start all workers again, with --resume"
        raise UserError(f"another worker is lost: {advice}") from error
