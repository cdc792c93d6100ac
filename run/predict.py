"""Prediction: a fundus photograph -> its OCT-A, for training, synthesis and evaluation alike.

The OCT-A comes from one pass through the generator, with noise, from which the network makes the speckle. The vessel
probability is predicted without noise, and is the mean of passes at several scales: no single one suits all vessels.
Batch normalisation uses the statistics of that image alone, and dropout is off, so that a result depends on the
photograph and the weights only. Outside the field of view the network sees the retina mirrored, so it draws no rim.
"""

import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock

import keras
import numpy as np
import tensorflow as tf

from pix_generator import Generator
from pix_layers import layers_of
from retina.images import FUNDUS_CHANNELS, black_outside, continue_outside, octa_to_grey, resized
from retina.patches import (
    cut_at_corners,
    patch_corners,
    put_img_back_from_patches,
    reflect_to_multiple,
    reflect_to_patch,
)
from retina.vessels import smooth, vessel_map
from run.checkpoints import RunError
from run.devices import precision_to_predict, set_up_gpus
from run.settings import SIZE_MULTIPLE, Settings
from run.weights import describe, load_weights

# A block of 64 x 64 px on the grid of the U-Net's downsampling depends on no more than the 127 px around it.
MARGIN = 2 * SIZE_MULTIPLE  # px
TILE = 24 * SIZE_MULTIPLE  # px: larger images are tiled, which limits the memory

# Diameters of the field of view, in px, at which a photograph is predicted. No single one suits all cameras: small
# old photographs gain by being enlarged up to twice, and sharp large ones lose by being shrunk to less than half their
# size. So the prediction averages all sizes that shrink it to no less than MOST_SHRUNK and enlarge it, if at all, to no
# more than ENLARGED; research/README.md has the measurements.
DIAMETERS = (700, 1000, 1400, 2000, 2800)
ENLARGED = 1400
MOST_ENLARGED = 3.0  # times: more reveals nothing, and memory grows with the square
MOST_SHRUNK = 0.45  # times

# From this vessel probability on, half of the people that `research/confidence.py` simulates draw a vessel, in
# photographs of usual scale and sharpness. In small or blurred ones they draw thin vessels wider than they are; if the
# map followed them, a density would depend on the size of the file.
DRAWN_FROM = 0.5

NOISE_PX = 512  # period of the noise on a photograph
LIGHT_SIGMA = 0.06  # of the field's diameter: wider than any vessel, narrower than the shadows of a photograph
LIGHT_PX = 250  # diameter of the field at which the light is measured
DARKEST = 4.0  # grey level: darker places are lightened as if they had this one


@dataclass(frozen=True)
class Prediction:
    """The generator's prediction for a photograph; 0 outside the field of view."""

    octa: np.ndarray  # (height, width, channels), float32 on [0, 1], from one pass; alpha, if any, as predicted
    probability: np.ndarray  # of a vessel: (height, width), float32 on [0, 1], the mean of all passes


class Turns:
    """Threads use the network in turns, since each pass uses all cores or the GPU, and holds the memory of one."""

    def __init__(self):
        self.seconds, self.lock, self.ended = 0.0, Lock(), False

    @contextmanager
    def take(self) -> Iterator[None]:
        """Wait for the network, and hold it for the block; CancelledError: nobody waits for results any more."""
        with self.lock:
            if self.ended:
                raise CancelledError
            started = time.perf_counter()
            yield
            self.seconds += time.perf_counter() - started


class Predictor:
    """A generator ready to predict. It may still be in training: predictions use the newest weights, change nothing.

    Each method takes `fundus`, (height, width, 3), uint8, and `fov`, (height, width), bool: inside the field of view.
    Outside it, the network sees the retina continued. RunError: the prediction is not finite.
    """

    def __init__(self, generator: keras.Model, settings: Settings):
        """A generator for images of any size, `Generator(3, (None, None), channels)`, and the settings of its run."""
        self.generator, self.input_noise = generator, settings.input_noise
        self.octa_channels, self.vessel_output = settings.octa_channels, settings.vessel_output
        self.turns = Turns()
        images = tf.TensorSpec((None, None, None, FUNDUS_CHANNELS), tf.float32)
        fixed = generator.non_trainable_variables
        specs = [tf.TensorSpec(value.shape, value.dtype) for value in fixed]

        @tf.function(input_signature=[images, specs])
        def with_statistics(fundus: tf.Tensor, statistics: list[tf.Tensor]) -> tf.Tensor:
            """OCT-A of fundus images, [-1, 1], with statistics as `with_own_statistics` returns them."""
            return generator.stateless_call(generator.trainable_variables, statistics, fundus, training=False)[0]

        @tf.function(input_signature=[images])
        def as_published(fundus: tf.Tensor) -> tf.Tensor:
            """OCT-A of fundus patches, [-1, 1], as published: with the statistics of the batch and with dropout."""
            return generator.stateless_call(generator.trainable_variables, fixed, fundus, training=True)[0]

        self.with_own_statistics = tf.function(self._with_own_statistics, input_signature=[images])
        self.with_statistics, self.as_published = with_statistics, as_published

    def _with_own_statistics(self, fundus: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """OCT-A (1, height, width, channels), [-1, 1], of one fundus image (1, height, width, 3), [-1, 1].

        Returns:
            The OCT-A, and the image's statistics as values of generator.non_trainable_variables. Batch normalisation
            moves its averages to momentum * average + (1 - momentum) * statistic: with averages of zero, the result
            divided by (1 - momentum) is the image's own statistic.
        """
        share = {
            variable.path: 1 - layer.momentum
            for layer in layers_of(self.generator, keras.layers.BatchNormalization)
            for variable in (layer.moving_mean, layer.moving_variance)
        }
        fixed = self.generator.non_trainable_variables
        zeros = [tf.zeros_like(variable.value) if variable.path in share else variable.value for variable in fixed]
        with without_dropout(self.generator):
            weights = self.generator.trainable_variables
            octa, averages = self.generator.stateless_call(weights, zeros, fundus, training=True)
        return octa, [
            value / share[variable.path] if variable.path in share else value
            for variable, value in zip(fixed, averages, strict=True)
        ]

    def predict(self, fundus: np.ndarray, fov: np.ndarray) -> np.ndarray:
        """OCT-A of an image at its own scale, that of UT-FSOCTA's crops: for crops, in training and evaluation.

        The network makes its speckle from the run's noise, which is added to the photograph.

        Returns:
            (height, width, channels), float32 on [0, 1], black outside the field (alpha, if any, as predicted).
        """
        return self.octa_of(self.generated(fundus, fov, with_noise=True), fov)

    def predict_vessels(self, fundus: np.ndarray, fov: np.ndarray) -> np.ndarray:
        """Vessel probability (height, width), float32 on [0, 1], as `predict`, but without noise."""
        return self.probability_of(self.generated(fundus, fov, with_noise=False), fov)

    @property
    def vessels_apart(self) -> bool:
        """Whether vessels are not found in the predicted OCT-A itself, but take a pass of their own."""
        return self.vessel_output or self.input_noise > 0

    def map_of(self, probability: np.ndarray, fov: np.ndarray, region: str | None = None) -> np.ndarray:
        """The vessel map (height, width), bool: where the probability exceeds DRAWN_FROM.

        Without a vessel probability, `probability` is a grey OCT-A, and the map the brightest class of its pixels; see
        `vessel_map`, also for `region`.
        """
        return fov & (probability > DRAWN_FROM) if self.vessel_output else vessel_map(probability, fov, region)

    def octa_of(self, output: np.ndarray, fov: np.ndarray) -> np.ndarray:
        """The OCT-A in the generator's output."""
        return to_zero_one(output[..., : self.octa_channels], fov)

    def probability_of(self, output: np.ndarray, fov: np.ndarray) -> np.ndarray:
        """The vessel probability in the generator's output: its last channel or, without one, the grey OCT-A."""
        probability = output[..., -1:] if self.vessel_output else output
        return octa_to_grey(to_zero_one(probability, fov))

    def predict_photograph(
        self, fundus: np.ndarray, fov: np.ndarray, diameter: float | None, fast: bool = False, stretch: float = 1.0
    ) -> Prediction:
        """OCT-A and vessel probability of a photograph of any scale, after its light has been evened out.

        The network sees the photograph with the same scale along both axes; the results have the photograph's pixels.

        Args:
            diameter: of a field of 45 degrees in px, along the axis of the larger scale; None: unknown; the photograph
                is predicted unchanged.
            fast: a single pass for each.
            stretch: see `Field`.
        """
        view, field = with_equal_scales(fundus, fov, stretch)
        evened = view if diameter is None else with_even_light(view, field, diameter)
        shown, outputs = factor_shown(diameter), self.passes(evened, field, diameter, fast)
        output = self.one_pass(evened, field, shown, with_noise=True) if self.input_noise else outputs[shown]
        images = self.octa_of(output, field), self.mean_probability(outputs, field)[..., np.newaxis]
        octa, probability = (black_outside(resized(image, fov.shape), fov) for image in images)
        return Prediction(octa, probability[..., 0])

    def vessel_probability(
        self, fundus: np.ndarray, fov: np.ndarray, diameter: float | None, fast: bool = False
    ) -> np.ndarray:
        """The `probability` of `predict_photograph` alone, without the pass for the OCT-A; the same arguments."""
        evened = fundus if diameter is None else with_even_light(fundus, fov, diameter)
        return self.mean_probability(self.passes(evened, fov, diameter, fast), fov)

    def passes(
        self, fundus: np.ndarray, fov: np.ndarray, diameter: float | None, fast: bool
    ) -> dict[float, np.ndarray]:
        """The generator's outputs without noise, for a photograph with even light, by factor."""
        factors = [factor_shown(diameter)] if fast else scale_factors(diameter)
        return {factor: self.one_pass(fundus, fov, factor, with_noise=False) for factor in factors}

    def mean_probability(self, outputs: dict[float, np.ndarray], fov: np.ndarray) -> np.ndarray:
        """The mean vessel probability (height, width) of some passes."""
        return np.mean([self.probability_of(output, fov) for output in outputs.values()], axis=0)

    def one_pass(self, fundus: np.ndarray, fov: np.ndarray, factor: float, with_noise: bool) -> np.ndarray:
        """As `generated`, of the photograph resized by a factor; the result has its original size."""
        size = tuple(max(1, round(side * factor)) for side in fov.shape)
        return resized(self.generated(resized(fundus, size), resized(fov, size), with_noise), fov.shape)

    def generated(self, fundus: np.ndarray, fov: np.ndarray, with_noise: bool) -> np.ndarray:
        """The generator's output (height, width, channels), [-1, 1]; arguments as of `predict`.

        In one pass, or in tiles if the image is larger than TILE x TILE px. Tiles overlap by the distance that a
        pixel's result depends on, and lie on the grid of the downsampling; so they give, without seams, what one pass
        with the same statistics gives. The statistics are those of the middle tile.
        """
        noise = self.input_noise if with_noise else 0.0
        height, width = fov.shape
        whole = reflect_to_multiple(continue_outside(fundus, fov), SIZE_MULTIPLE)
        with self.turns.take():
            return self.in_tiles(whole, noise)[:height, :width]

    def in_tiles(self, whole: np.ndarray, noise: float) -> np.ndarray:
        """As `generated`, of an image whose sides are multiples of 64 px."""
        if whole.shape[0] * whole.shape[1] <= TILE**2:
            return self.with_own_statistics(seen_by_network(whole, noise))[0][0].numpy()
        statistics = self.statistics(whole, noise)
        octa = np.empty((*whole.shape[:2], self.generator.output_shape[-1]), np.float32)
        for rows, seen_rows in tile_spans(whole.shape[0], TILE):
            for columns, seen_columns in tile_spans(whole.shape[1], TILE):
                seen = seen_by_network(whole, noise, seen_rows, seen_columns)
                part = self.with_statistics(seen, statistics)[0].numpy()
                top, left = rows.start - seen_rows.start, columns.start - seen_columns.start
                octa[rows, columns] = part[top:, left:][: rows.stop - rows.start, : columns.stop - columns.start]
        return octa

    def statistics(self, whole: np.ndarray, noise: float) -> list[tf.Tensor]:
        """Statistics for `with_statistics`: of the middle tile of an image (height, width, 3), uint8, sides n * 64."""
        middle = []
        for size in whole.shape[:2]:
            seen = tile_spans(size, TILE)[0][1].stop
            first = (size - seen) // 2 // SIZE_MULTIPLE * SIZE_MULTIPLE
            middle.append(slice(first, first + seen))
        return self.with_own_statistics(seen_by_network(whole, noise, *middle))[1]

    def predict_as_published(
        self, fundus: np.ndarray, fov: np.ndarray, patch_size: int, stride: int, batch_size: int
    ) -> np.ndarray:
        """OCT-A of a whole image as the study's scripts predict it, for comparison: by blended patches on their grid.

        With dropout, with the statistics of each batch of patches, and on the photograph as it is.

        Args:
            patch_size: side of a patch in px.
            stride: steps per patch, see `patch_corners`, whose ValueError this raises.
            batch_size: patches predicted at once.

        Returns:
            As `predict`.
        """
        size = (patch_size, patch_size)
        whole = reflect_to_patch(fundus, size)
        corners = patch_corners(whole.shape, size, stride)
        parts = (corners[first : first + batch_size] for first in range(0, len(corners), batch_size))
        batches = (self.as_published(to_model(cut_at_corners(whole, part, size))) for part in parts)
        with self.turns.take():
            patches = (patch for batch in batches for patch in batch.numpy())
            octa = put_img_back_from_patches(patches, whole.shape, stride)
        return self.octa_of(octa[: fov.shape[0], : fov.shape[1]], fov)


def tile_spans(size: int, tile: int) -> list[tuple[slice, slice]]:
    """Divide a side of `size` px, a multiple of 64, into tiles of at most `tile` px: what each covers and what it sees.

    That is MARGIN px more on each side, and equal for all: TensorFlow holds memory for every image shape that it meets.
    """
    count = max(1, -(-(size - 2 * MARGIN) // (tile - 2 * MARGIN)))
    core = -(-size // count // SIZE_MULTIPLE) * SIZE_MULTIPLE
    seen = min(size, core + 2 * MARGIN)
    starts = range(0, size, core)
    first_seen = [min(max(0, start - MARGIN), size - seen) for start in starts]
    return [(slice(a, min(a + core, size)), slice(b, b + seen)) for a, b in zip(starts, first_seen, strict=True)]


def scale_factors(diameter: float | None) -> list[float]:
    """Factors by which to resize a photograph whose field has this diameter in px, in ascending order."""
    if diameter is None:
        return [1.0]
    factors = [px / diameter for px in DIAMETERS]
    largest = min(max(1, ENLARGED / diameter), MOST_ENLARGED)
    chosen = [factor for factor in factors if MOST_SHRUNK <= factor <= largest]
    return chosen or [min(factors[-1], MOST_ENLARGED)]  # for a very large or a very small photograph


def factor_shown(diameter: float | None) -> float:
    """The one of `scale_factors` at which the OCT-A is predicted: enlarging further helps the thinnest vessels only."""
    return scale_factors(diameter)[-2:][0]


def with_even_light(fundus: np.ndarray, fov: np.ndarray, diameter: float) -> np.ndarray:
    """Even out the light of a photograph (height, width, 3), uint8, whose field has this diameter in px.

    Inside the field, the surroundings of all pixels become equally bright. All three channels are multiplied by the
    same factor, so that colours and contrasts stay.
    """
    size = tuple(max(1, round(side * min(1, LIGHT_PX / diameter))) for side in fov.shape)
    inside = resized(fov, size)
    if not inside.any():
        return fundus
    brightness = resized(fundus, size).mean(axis=-1)
    light = np.maximum(smooth(brightness, inside, LIGHT_SIGMA * diameter * size[0] / fov.shape[0]), DARKEST)
    gain = (np.median(light[inside]) / light).astype(np.float32)[..., np.newaxis]
    gain = resized(continue_outside(gain, inside), fov.shape)
    return black_outside(np.clip(fundus * gain + 0.5, 0, 255), fov).astype(np.uint8)


def with_equal_scales(fundus: np.ndarray, fov: np.ndarray, stretch: float) -> tuple[np.ndarray, np.ndarray]:
    """A photograph (height, width, 3), uint8, and its field, bool, without the `stretch` of the `Field`: enlarged."""
    height, width = fov.shape
    size = round(height * max(1.0, stretch)), round(width * max(1.0, 1 / stretch))
    return resized(fundus, size), resized(fov, size)


@contextmanager
def without_dropout(network: keras.Model) -> Iterator[None]:
    """Trace a network with dropout off and everything else as in training."""
    rates = {layer: layer.rate for layer in layers_of(network, keras.layers.Dropout)}
    for layer in rates:
        layer.rate = 0.0
    try:
        yield
    finally:
        for layer, rate in rates.items():
            layer.rate = rate


def seen_by_network(
    image: np.ndarray, noise: float, rows: slice = slice(None), columns: slice = slice(None)
) -> np.ndarray:
    """Part of an image (height, width, 3), uint8, as the generator sees it: (1, rows, columns, 3), float32, [-1, 1].

    `noise` is the standard deviation of added noise: always the same at a pixel, whichever part is seen.
    """
    fundus = to_model(image[rows, columns])[np.newaxis]
    if not noise:
        return fundus
    places = (np.arange(size)[part] % NOISE_PX for size, part in zip(image.shape, (rows, columns), strict=False))
    return fundus + noise * white_noise()[np.ix_(*places)]


@cache
def white_noise() -> np.ndarray:
    """Noise (NOISE_PX, NOISE_PX, 3), float32, with a standard deviation of 1."""
    return np.random.default_rng(0).standard_normal((NOISE_PX, NOISE_PX, FUNDUS_CHANNELS), np.float32)


def to_model(image: np.ndarray) -> np.ndarray:
    """Uint8 on [0, 255] -> float32 on [-1, 1]."""
    return image.astype(np.float32) / 127.5 - 1


def to_zero_one(gen_output: np.ndarray, fov: np.ndarray) -> np.ndarray:
    """The generator's output (height, width, channels), [-1, 1] -> [0, 1], 0 outside the field.

    Raises:
        RunError: it is not finite.
    """
    if not np.isfinite(gen_output).all():
        raise RunError("the prediction is not finite: the weights are damaged; choose another --run or --weights")
    return black_outside(gen_output * 0.5 + 0.5, fov)


# --- a run's generator -----------------------------------------------------------------------------------------------


def load_predictor(run: Path, weights: str | None, settings: Settings) -> tuple[Predictor, str]:
    """The generator of a run, ready to predict, and the path of its weights.

    Args:
        run: the run's folder of checkpoints.
        weights: which, see `run.weights.load_weights`.
        settings: of the run.

    Raises:
        RunError: there are no such weights, or they are damaged and so are those to fall back on.
    """
    keras.utils.set_random_seed(settings.seed)  # for the dropout of the published prediction
    keras.config.set_dtype_policy(precision_to_predict(settings.precision))
    generator = Generator(FUNDUS_CHANNELS, (None, None), settings.target_channels)
    path = load_weights(generator, run, weights)
    return Predictor(generator, settings), path


def announced_predictor(run: Path, weights: str | None, settings: Settings, why: str) -> tuple[Predictor, str]:
    """As `load_predictor`, with the GPUs set up, and announced."""
    device = set_up_gpus()
    predictor, path = load_predictor(run, weights, settings)
    announce(device, path, why)
    return predictor, path


def announce(device: str, path: str, why: str) -> None:
    """Print device, precision, the path of the weights, and `why` these weights."""
    print(f"Device: {device}, precision: {keras.config.dtype_policy().name}")
    print(f"Weights: {describe(path)}" + (f"; {why}" if why else ""))
