"""The schedule of a run: which networks learn in each step, at which learning rate, and with which noise.

It depends on the settings and the step's number only, so a resumed run does the same as an unbroken one.
"""

import tensorflow as tf

from run.settings import Settings


def has_discriminator(settings: Settings, step: int, steps: int) -> bool:
    """Whether a step (from 1 to `steps`) trains against the discriminator.

    With `input_noise` only every second step does. In the other steps, without noise, the generator learns to find the
    vessels as well as they can be known; so it draws speckle only where there is noise.
    """
    return is_past_l1_only(settings, step, steps) and not (settings.input_noise and step % 2)


def is_past_l1_only(settings: Settings, step: int, steps: int) -> bool:
    """Whether a step (from 1 to `steps`) lies after the L1-only phase."""
    return step > settings.l1_only * steps


def with_noise(fundus: tf.Tensor, settings: Settings, step: int) -> tf.Tensor:
    """Add `input_noise` to photographs (batch, height, width, 3), [-1, 1]; seed and step determine the noise."""
    if not settings.input_noise:
        return fundus
    seed = settings.seed, step
    return fundus + tf.random.stateless_normal(tf.shape(fundus), seed, stddev=settings.input_noise)


def learning_rate(settings: Settings, step: int, steps: int) -> float:
    """Learning rate of a step (from 1 to `steps`): as set, then falling linearly to 0 over the last share `decay`."""
    falling = settings.decay * steps
    left = steps - step + 1
    return settings.learning_rate * min(1.0, left / falling) if falling else settings.learning_rate
