"""What each step of a run does, from its settings and its number alone: which networks learn, at which rate, from what.

A resumed run therefore does the same as an unbroken one.
"""

import tensorflow as tf

from pix_settings import Settings

L1_FINISH = 0.04  # share of a run, at its end, without the discriminator, if it makes its speckle from noise


def has_discriminator(settings: Settings, step: int, steps: int) -> bool:
    """Whether a step (from 1 to `steps`) trains against the discriminator, and not by the mean absolute error alone.

    With `input_noise` it does in every second step only, and no more at the end: by the other steps the generator
    learns to draw the vessels as well as they can be known where there is no noise, and speckle only where there is.
    """
    pauses = settings.input_noise and (step % 2 or step > steps - int(L1_FINISH * steps))
    return is_past_l1_only(settings, step, steps) and not pauses


def is_past_l1_only(settings: Settings, step: int, steps: int) -> bool:
    """Whether a step (from 1 to `steps`) lies after the L1-only phase."""
    return step > settings.l1_only * steps


def with_noise(fundus: tf.Tensor, settings: Settings, step: int) -> tf.Tensor:
    """Photographs (batch, height, width, 3), [-1, 1], with `input_noise`; the same for each step of a run."""
    if not settings.input_noise:
        return fundus
    seed = settings.seed, step
    return fundus + tf.random.stateless_normal(tf.shape(fundus), seed, stddev=settings.input_noise)


def learning_rate(settings: Settings, step: int, steps: int) -> float:
    """The rate of a step (from 1 to `steps`): as set, then falling linearly to 0 over the last `decay` of the run."""
    falling = settings.decay * steps
    left = steps - step + 1
    return settings.learning_rate * min(1.0, left / falling) if falling else settings.learning_rate
