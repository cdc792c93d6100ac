"""The way of the data: files on disk -> table of cases -> images -> patches -> `tf.data`, and patches back to an image.

The folder is laid out as UT-FSOCTA (Zenodo, doi 10.5281/zenodo.6476639):

    UT-FSOCTA-v1/cropped/{fundus,octa}/{disc,macula}/<subject>_<OD|OS>.png    aligned pairs
    UT-FSOCTA-v1/fov45/fundus/<subject>_<OD|OS>.jpg                           whole photographs (`fov_45` too)

Images stay uint8 on [0, 255] in memory and are decoded once per run; they become float32 on [-1, 1] in the pipeline.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image, ImageOps
from scipy.ndimage import binary_erosion, binary_opening, distance_transform_edt, label
from skimage.morphology import convex_hull_image

DATASET_NAME = "UT-FSOCTA-v1"
REGIONS = ("disc", "macula")
FULL_FIELD_FOLDERS = ("fov45", "fov_45")  # the deposit's name, and the one that the published script reads
PUBLISHED_SPLITS = {  # by subject id: the deposit's own
    "train": tuple(range(1, 26)),
    "validation": tuple(range(26, 31)),
    "test": tuple(range(31, 113)),
}
CASE_COLUMNS = ("subject", "eye", "region", "split", "fundus", "octa")
FUNDUS_CHANNELS = 3
FILE_NAME = re.compile(r"(?P<subject>\d+)_(?P<eye>OD|OS)\.(?:png|jpe?g|tiff?|bmp)", re.IGNORECASE)
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # Pillow's names
SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")

DRAWN_PER_EPOCH = 320  # patches between two validations, when all are drawn
RETINAS_PER_BLOCK = 16  # drawn retinas whose patches are shuffled
PATCHES_PER_RETINA = 4  # so that drawing, 0.2 s of a core for a retina, takes little from training on few cores

# Brightest channel, of 255. Retina in the darkest corner of a real crop has 20 and more, the camera's black 0 to 8.
DARK = 15
MIN_PART_OF_FIELD = 0.01  # of the image's area: smaller bright islands on the black are letters or dust
RIM_OF_FIELD = 6  # px: nearer to its border the field fades into the black


class DataError(ValueError):
    """Data that training cannot start from; the message is one line for the user."""


@dataclass(frozen=True)
class Pair:
    """One case in memory."""

    fundus: np.ndarray  # (height, width, 3), uint8
    octa: np.ndarray  # (height, width, 1 or 4), uint8
    fov: np.ndarray  # (height, width), bool: inside the camera's field


# --- files on disk -> table of cases ---------------------------------------------------------------------------------


def find_dataset(folder: Path) -> Path | None:
    """The dataset that a folder is, or holds as `UT-FSOCTA-v1`: what has `cropped/fundus` and `cropped/octa`."""
    for candidate in (folder, folder / DATASET_NAME):
        if all((candidate / "cropped" / kind).is_dir() for kind in ("fundus", "octa")):
            return candidate
    return None


def load_data_cases(
    data_fold: Path, splits: Mapping[str, Sequence[int]] = PUBLISHED_SPLITS
) -> tuple[pd.DataFrame, list[Path]]:
    """List the pairs of a dataset.

    Args:
        data_fold: the folder that holds `cropped`.
        splits: subject ids of `train`, `validation` and `test`.

    Returns:
        The cases, one row each, sorted: `subject` (int), `eye` (OD, OS), `region` (disc, macula), `split` (None for
        a subject that no split names), `fundus` and `octa` (paths). And the files that have no partner. Hidden files
        and foreign names are neither.

    Raises:
        DataError: two files of one folder are the same case.
    """
    split_of = {subject: split for split, subjects in splits.items() for subject in subjects}
    rows, unpaired = [], []
    for region in REGIONS:
        fundus = list_eyes(data_fold / "cropped" / "fundus" / region)
        octa = list_eyes(data_fold / "cropped" / "octa" / region)
        for subject, eye in fundus.keys() & octa.keys():
            row = (subject, eye, region, split_of.get(subject), fundus[subject, eye], octa[subject, eye])
            rows.append(row)
        unpaired += [(fundus.get(key) or octa[key]) for key in fundus.keys() ^ octa.keys()]
    return pd.DataFrame(sorted(rows, key=lambda row: row[:3]), columns=CASE_COLUMNS), sorted(unpaired)


def list_full_fields(data_fold: Path) -> dict[tuple[int, str], Path]:
    """The whole photographs of a dataset by (subject, eye); empty if it has none."""
    found: dict[tuple[int, str], Path] = {}
    for name in FULL_FIELD_FOLDERS:
        found |= list_eyes(data_fold / name / "fundus")
    return found


def list_eyes(folder: Path) -> dict[tuple[int, str], Path]:
    """Images of a folder that are named `<subject>_<eye>`, by (subject, eye); empty if there is no such folder.

    Raises:
        DataError: two files are of the same eye, such as `7_OD.png` and `7_OD.jpg`.
    """
    found: dict[tuple[int, str], Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = FILE_NAME.fullmatch(path.name)
        if not match:
            continue
        key = (int(match["subject"]), match["eye"].upper())
        if key in found:
            raise DataError(f"{found[key]} and {path.name} are the same eye: remove one")
        found[key] = path
    return found


# --- files -> images -------------------------------------------------------------------------------------------------


def read_image(path: Path) -> np.ndarray:
    """Read PNG, JPEG, TIFF or BMP of 8 or 16 bits, grey, RGB, RGBA, CMYK or palette.

    Returns:
        (height, width, 4), uint8: red, green, blue, alpha (255 where the file has none).

    Raises:
        DataError: the file cannot be read, or holds another kind of pixels.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode in SIXTEEN_BIT_MODES:
                grey = np.asarray(image).astype(np.uint16)  # [0, 65535]
                image = Image.fromarray(np.round(grey / 257).astype(np.uint8))  # [0, 65535] -> [0, 255]
            elif image.mode == "I" and file.format == "PNG":  # how older Pillows hand out a grey PNG of 16 bits
                image = Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
            elif image.mode not in EIGHT_BIT_MODES:
                raise DataError(f"{path}: pixels of kind {image.mode!r}; save it with 8 or 16 bits per channel")
            return np.array(image.convert("RGBA"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, DataError):
            raise
        reason = "not an image, or damaged" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise DataError(f"{path}: cannot be read as an image ({reason})") from error


def read_fundus(path: Path) -> np.ndarray:
    """Read a fundus photograph: (height, width, 3), uint8. Raises DataError as `read_image`."""
    return read_image(path)[..., :FUNDUS_CHANNELS]


def read_octa(path: Path, channels: int) -> np.ndarray:
    """Read an OCT-A image: (height, width, channels), uint8. Raises DataError as `read_image`.

    One channel is the mean of red, green and blue, which are all but equal; four are RGBA as in the file.
    """
    image = read_image(path)
    return octa_to_grey(image).round().astype(np.uint8)[..., np.newaxis] if channels == 1 else image


def octa_to_grey(octa: np.ndarray) -> np.ndarray:
    """One plane (height, width) of an OCT-A image (height, width, 1 or 4): the mean of its colours, without alpha."""
    return octa[..., :3].mean(axis=-1)


def field_of_view(fundus: np.ndarray) -> np.ndarray:
    """Where a fundus photograph shows the eye and not the camera's black border.

    The field of a fundus camera is a disc, perhaps with flat sides, cut by the image: convex. So it is the convex hull
    of all that is not dark, and dark vessels or a dark macula cannot tear holes into it.

    Args:
        fundus: (height, width, 3), uint8.

    Returns:
        (height, width), bool, True inside; all False for an image that is dark all over.
    """
    bright = fundus.max(axis=-1) > DARK  # (height, width)
    if bright.all():
        return bright
    parts, number = label(binary_opening(bright, np.ones((3, 3))))  # opening: without the noise of JPEG on black
    sizes = np.bincount(parts.ravel(), minlength=number + 1)
    large = sizes >= MIN_PART_OF_FIELD * bright.size
    large[0] = False  # the dark
    field = large[parts]
    return convex_hull_image(field) if field.any() else field


def continue_outside(image: np.ndarray, fov: np.ndarray) -> np.ndarray:
    """Continue an image over the border of the camera's field, by mirroring it there.

    So a network sees no edge where the camera has one, and draws none.

    Args:
        image: (height, width, channels).
        fov: (height, width), bool: inside the field.

    Returns:
        (height, width, channels), dtype as given; inside the field, but for its fading rim, as it was. Where a mirror
        image would lie beyond the image, its border is repeated; where beyond the field, the field's nearest pixel.
    """
    inner = binary_erosion(fov, iterations=RIM_OF_FIELD, border_value=1)
    if inner.all() or not inner.any():
        return image
    here = np.indices(fov.shape, dtype=np.int32)  # (2, height, width)
    nearest = distance_transform_edt(~inner, return_distances=False, return_indices=True)  # (2, height, width)
    last = np.reshape(fov.shape, (2, 1, 1)) - 1
    mirrored = np.clip(2 * nearest - here, 0, last)
    return image[tuple(np.where(inner[tuple(mirrored)], mirrored, nearest))]


def load_pair(fundus_path: Path, octa_path: Path, octa_channels: int, fov_mask: bool) -> Pair:
    """Read one case; with `fov_mask`, both images are black outside the camera's field.

    Raises:
        DataError: a file cannot be read, or the two differ in size.
    """
    fundus, octa = read_fundus(fundus_path), read_octa(octa_path, octa_channels)
    if fundus.shape[:2] != octa.shape[:2]:
        sizes = " and ".join(f"{image.shape[1]} x {image.shape[0]} px" for image in (fundus, octa))
        raise DataError(f"{fundus_path} and {octa_path} are a pair of two sizes, {sizes}; align them first")
    fov = field_of_view(fundus) if fov_mask else np.ones(fundus.shape[:2], dtype=bool)
    fundus[~fov] = 0
    octa[~fov, :3] = 0  # alpha, if there, stays
    return Pair(fundus, octa, fov)


def load_pairs(cases: pd.DataFrame, octa_channels: int, fov_mask: bool) -> list[Pair]:
    """Read the cases of a table, in its order. Raises DataError at the first that is wrong, as `load_pair`."""
    with ThreadPoolExecutor() as pool:
        return list(
            pool.map(
                lambda case: load_pair(case.fundus, case.octa, octa_channels, fov_mask), cases.itertuples(index=False)
            )
        )


# --- images -> patches -> images -------------------------------------------------------------------------------------


def patch_corners(img_resolution: Sequence[int], patch_size: Sequence[int], stride: int = 1) -> np.ndarray:
    """Upper left corners of the study's grid of patches.

    There are ceil(stride * (size - patch) / patch) + 1 patches per axis; the last is shifted to the image's border.

    Args:
        img_resolution: height and width of the image in px.
        patch_size: height and width of a patch in px.
        stride: steps per patch: 1 puts patches side by side, 2 overlaps them by half, 8 by 87.5 %.

    Returns:
        (patches, 2), int: row and column, the row running fastest, as in the published scripts.

    Raises:
        ValueError: the image is smaller than a patch, or the stride is no whole number from 1 to the patch's side.
    """
    if img_resolution[0] < patch_size[0] or img_resolution[1] < patch_size[1]:
        raise ValueError(f"image {tuple(img_resolution[:2])} is smaller than a patch {tuple(patch_size[:2])}")
    if stride != int(stride) or not 1 <= stride <= min(patch_size[:2]):
        raise ValueError(f"stride {stride}: want a whole number of steps per patch, from 1 to {min(patch_size[:2])}")
    axes = []
    for size, patch in zip(img_resolution[:2], patch_size[:2], strict=True):
        steps = ceil(stride * (size - patch) / patch) + 1
        axes.append(np.minimum(np.arange(steps) * patch // stride, size - patch))
    columns, rows = np.meshgrid(axes[1], axes[0], indexing="ij")
    return np.stack([rows.ravel(), columns.ravel()], axis=1)


def break_img_to_patches(
    img_input: np.ndarray, img_label: np.ndarray | None = None, patch_size: Sequence[int] = (256, 256), stride: int = 1
) -> tuple[np.ndarray, np.ndarray | None]:
    """Cut an image, and its label alike, into the study's grid of patches.

    Args:
        img_input: (height, width, channels).
        img_label: (height, width, label channels), or None.
        patch_size: height and width of a patch in px.
        stride: steps per patch, see `patch_corners`.

    Returns:
        (patches, *patch_size, channels), the same of the label or None; dtypes as given.

    Raises:
        ValueError: as `patch_corners`; or the label has another height or width.
    """
    if img_label is not None and img_label.shape[:2] != img_input.shape[:2]:
        raise ValueError(f"image {img_input.shape[:2]} and label {img_label.shape[:2]} differ in size")
    corners = patch_corners(img_input.shape, patch_size, stride)
    patches = cut_at_corners(img_input, corners, patch_size)
    return patches, None if img_label is None else cut_at_corners(img_label, corners, patch_size)


def cut_at_corners(image: np.ndarray, corners: np.ndarray, patch_size: Sequence[int]) -> np.ndarray:
    """Patches (patches, h, w, channels) of an image (height, width, channels) at some of `patch_corners`."""
    rows, columns = corners.T
    windows = sliding_window_view(image, tuple(patch_size[:2]), axis=(0, 1))  # a view: no copy yet
    return np.moveaxis(windows[rows, columns], 1, -1)  # (patches, channels, h, w) -> (patches, h, w, channels)


def put_img_back_from_patches(
    patches: Iterable[np.ndarray], out_img_resolution: Sequence[int], stride: int = 1
) -> np.ndarray:
    """Blend patches of the study's grid back into an image.

    Overlaps are averaged with a smooth window, so that no patch ends abruptly. Patches are taken one at a time: only
    the image is held in memory, however large the overlap, if they come from a generator.

    Args:
        patches: (h, w, channels) each, in the order of `patch_corners`.
        out_img_resolution: height and width of the image in px.
        stride: steps per patch, that of the cutting.

    Returns:
        (height, width, channels), float32, or float64 for patches of float64.

    Raises:
        ValueError: there are too few or too many patches for this image and stride.
    """
    height, width = out_img_resolution[:2]
    total = weight = corners = None
    dtype = np.dtype(np.float32)
    count = 0
    for patch in patches:
        patch = np.asarray(patch)
        if total is None:
            corners = patch_corners((height, width), patch.shape, stride)
            window = blending_window(patch.shape)  # (h, w, 1)
            total, weight = np.zeros((height, width, patch.shape[2])), np.zeros((height, width, 1))
            dtype = np.result_type(patch.dtype, np.float32)
        if count < len(corners):
            row, column = corners[count]
            place = (slice(row, row + patch.shape[0]), slice(column, column + patch.shape[1]))
            total[place] += window * patch
            weight[place] += window
        count += 1
    if total is None or count != len(corners):
        wanted = "at least one" if corners is None else len(corners)
        raise ValueError(f"{count} patches for an image of {height} x {width} px at stride {stride}: want {wanted}")
    return (total / weight).astype(dtype)


def blending_window(patch_shape: Sequence[int]) -> np.ndarray:
    """Weights (h, w, 1) on (0, 1]: a raised cosine along each axis, all but zero at the border, one in the middle."""
    axes = [np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2 for size in patch_shape[:2]]
    return (axes[0][:, np.newaxis] * axes[1])[..., np.newaxis]


def reflect_to_patch(image: np.ndarray, patch_size: Sequence[int]) -> np.ndarray:
    """Reflect (height, width, channels) out, below and to the right, to at least a patch; as it is if large enough."""
    return reflect_out(image, [max(0, patch - size) for patch, size in zip(patch_size, image.shape[:2], strict=True)])


def reflect_to_multiple(image: np.ndarray, multiple: int) -> np.ndarray:
    """Reflect (height, width, channels) out, below and to the right, until its sides are multiples of a number."""
    return reflect_out(image, [-size % multiple for size in image.shape[:2]])


def reflect_out(image: np.ndarray, missing: Sequence[int]) -> np.ndarray:
    """Reflect (height, width, channels) out by so many px below and to the right."""
    return np.pad(image, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="reflect") if any(missing) else image


# --- patches -> tf.data ----------------------------------------------------------------------------------------------


def preprocess_sample(sample_fundus: tf.Tensor, sample_octa: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Uint8 on [0, 255] -> float32 on [-1, 1], both images, any shape."""
    return tf.cast(sample_fundus, tf.float32) / 127.5 - 1, tf.cast(sample_octa, tf.float32) / 127.5 - 1


def cut_patch(images: tf.Tensor, place: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Cut, turn and flip one patch of a fundus and of its OCT-A, as one.

    Args:
        images: (images, height, width, 3 + octa channels), uint8.
        place: (5,), int: image, row, column, quarter turns (0 to 3), flip (0 or 1).
        size: side of the patch in px.

    Returns:
        (size, size, 3) and (size, size, octa channels), float32 on [-1, 1].
    """
    number, row, column, turns, flip = tf.unstack(place)
    pair = images[number, row : row + size, column : column + size]  # (size, size, 3 + octa channels)
    pair = tf.image.rot90(pair, turns)
    pair = tf.cond(flip == 1, lambda: tf.reverse(pair, axis=[1]), lambda: pair)
    pair = tf.ensure_shape(pair, (size, size, images.shape[-1]))
    return preprocess_sample(pair[..., :FUNDUS_CHANNELS], pair[..., FUNDUS_CHANNELS:])


class TrainingPatches:
    """Training pairs in memory, and the batches that are cut from them.

    Fundus and OCT-A are stacked as the channels of one array, so that they are cropped, flipped and rotated as one.
    Outside the field both are continued, as the fundus is in prediction: from black the network would learn that dark
    retina is black.

    Attributes:
        patches_per_epoch: as many as the study's grid at stride 1 gives, over all images.
        steps_per_epoch: batches per epoch; the last may be smaller.
    """

    def __init__(self, pairs: Sequence[Pair], patch_size: int, batch_size: int, seed: int, augment: bool):
        """Args: the pairs, any size; patch side in px; patches per batch; seed of the run; random crops or the grid."""
        self.patch_size, self.batch_size, self.seed, self.augment = patch_size, batch_size, seed, augment
        stacked = [
            reflect_to_patch(
                continue_outside(np.concatenate([pair.fundus, pair.octa], axis=-1), pair.fov), (patch_size, patch_size)
            )
            for pair in pairs
        ]  # (height, width, 3 + octa channels) each
        self.sizes = np.array([image.shape[:2] for image in stacked])  # (images, 2)
        images = np.zeros((len(stacked), *self.sizes.max(axis=0), stacked[0].shape[-1]), dtype=np.uint8)
        for image, plane in zip(stacked, images, strict=True):
            plane[: image.shape[0], : image.shape[1]] = image  # the rest is never cut
        with tf.device("CPU:0"):
            self.images = tf.constant(images)  # (images, largest height, largest width, 3 + octa channels)
        self.grid = self._grid()  # (patches, 3): image, row, column
        self.patches_per_epoch = len(self.grid)
        self.steps_per_epoch = ceil(self.patches_per_epoch / batch_size)

    def _grid(self) -> np.ndarray:
        parts = []
        for number, size in enumerate(self.sizes):
            corners = patch_corners(size, (self.patch_size, self.patch_size), stride=1)
            parts.append(np.column_stack([np.full(len(corners), number), corners]))
        return np.concatenate(parts)

    def plan(self, epoch: int) -> np.ndarray:
        """Which patches an epoch (from 0) sees, in which order: made from the run's seed and the epoch alone.

        Returns:
            (patches, 5), int32: image, row, column, quarter turns (0 to 3), flip (0 or 1).
        """
        random = np.random.default_rng([self.seed, epoch])
        plan = np.column_stack([self.grid, np.zeros((len(self.grid), 2), dtype=int)])
        if self.augment:
            images = plan[:, 0]
            free = self.sizes[images] - self.patch_size  # (patches, 2): where a corner may lie
            plan[:, 1:3] = random.integers(0, free, endpoint=True)
            plan[:, 3] = random.integers(0, 4, len(plan))
            plan[:, 4] = random.integers(0, 2, len(plan))
        return random.permutation(plan).astype(np.int32)

    def cut(self, place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The patch (size, size, 3) of the fundus, [-1, 1], and that of the OCT-A, at a row (5,) of the plan."""
        return cut_patch(self.images, place, self.patch_size)

    def epoch(self, epoch: tf.Tensor) -> tf.data.Dataset:
        """The batches of one epoch: shuffled (the plan is), cut and augmented, batched."""
        plan = tf.numpy_function(self.plan, [epoch], tf.int32, stateful=False)
        return (
            tf.data.Dataset.from_tensor_slices(tf.ensure_shape(plan, (self.patches_per_epoch, 5)))
            .map(self.cut, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .batch(self.batch_size)
        )

    def patches(self, first: int) -> tf.data.Dataset:
        """Single patches without end, (input_image, target), from a global number on: epoch after epoch."""
        first_epoch, done = divmod(first, self.patches_per_epoch)
        return tf.data.Dataset.counter(first_epoch).flat_map(self.epoch).unbatch().skip(done)

    def batches(self, first_step: int, epochs: int) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """Batches (input_image, target), float32 on [-1, 1], from a global step up to the end of the last epoch.

        One pipeline serves the whole run, so that nothing is built anew, and prefetching goes on, between epochs.
        """
        first_epoch, done = divmod(first_step, self.steps_per_epoch)
        dataset = tf.data.Dataset.range(first_epoch, epochs).flat_map(self.epoch)
        return iter(dataset.skip(done).prefetch(tf.data.AUTOTUNE))


class DrawnPatches:
    """Batches of patches from retinas that are drawn as they are needed, alone or mixed with patches of real pairs.

    Each retina gives a few patches and is never seen again. The patches of a block of retinas are shuffled, so that a
    batch holds several. All follows from the seed and the patch's number, so that a run can go on anywhere.

    Attributes:
        patches_per_epoch: of drawn and real ones together.
        steps_per_epoch: batches per epoch; all are full.
    """

    def __init__(
        self,
        draw: Callable[[int], Iterator[np.ndarray]],
        size: int,
        channels: int,
        patch_size: int,
        batch_size: int,
        seed: int,
        real: TrainingPatches | None = None,
        share: float = 1.0,
    ):
        """Args:
        draw: gives the retinas without end from a number on, (size, size, 3 + channels), uint8.
        size: side of a retina in px, at least a patch.
        channels: of the OCT-A.
        patch_size: side of a patch in px.
        batch_size: patches per batch.
        seed: of the run.
        real: patches of real pairs to mix in.
        share: of a batch that is drawn, with `real`; at least one patch of each kind.
        """
        self.draw, self.size, self.channels = draw, size, FUNDUS_CHANNELS + channels
        self.patch_size, self.batch_size, self.seed, self.real = patch_size, batch_size, seed, real
        if real is None:
            self.drawn_per_batch = batch_size
            self.steps_per_epoch = ceil(DRAWN_PER_EPOCH / batch_size)
        else:
            self.drawn_per_batch = min(max(1, round(share * batch_size)), batch_size - 1)
            self.steps_per_epoch = ceil(real.patches_per_epoch / (batch_size - self.drawn_per_batch))
        self.patches_per_epoch = self.steps_per_epoch * batch_size

    def plan(self, block: int) -> np.ndarray:
        """The patches of a block of retinas, in order: (patches, 5), int32, as in `TrainingPatches.plan`."""
        random = np.random.default_rng([self.seed, block, 1])  # 1: apart from the plans of real pairs
        count = RETINAS_PER_BLOCK * PATCHES_PER_RETINA
        corners = random.integers(0, self.size - self.patch_size, (count, 2), endpoint=True)
        turns, flips = random.integers(0, 4, count), random.integers(0, 2, count)
        plan = np.column_stack([np.repeat(np.arange(RETINAS_PER_BLOCK), PATCHES_PER_RETINA), corners, turns, flips])
        return random.permutation(plan).astype(np.int32)

    def patches(self, first: int) -> tf.data.Dataset:
        """Single drawn patches without end, (input_image, target), from a global number on."""
        first_block, done = divmod(first, RETINAS_PER_BLOCK * PATCHES_PER_RETINA)

        def cut_block(block: tf.Tensor, retinas: tf.Tensor) -> tf.data.Dataset:
            plan = tf.ensure_shape(tf.numpy_function(self.plan, [block], tf.int32, stateful=False), (None, 5))
            places = tf.data.Dataset.from_tensor_slices(plan)
            return places.map(lambda place: cut_patch(retinas, place, self.patch_size))

        retinas = tf.data.Dataset.from_generator(
            lambda: self.draw(first_block * RETINAS_PER_BLOCK),
            output_signature=tf.TensorSpec((self.size, self.size, self.channels), tf.uint8),
        )
        blocks = retinas.prefetch(RETINAS_PER_BLOCK).batch(RETINAS_PER_BLOCK, drop_remainder=True)
        return blocks.enumerate(first_block).flat_map(cut_block).skip(done)

    def batches(self, first_step: int, epochs: int) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """Batches (input_image, target), float32 on [-1, 1], from a global step up to the end of the last epoch."""
        dataset = self.patches(first_step * self.drawn_per_batch).batch(self.drawn_per_batch)
        if self.real is not None:
            per_batch = self.batch_size - self.drawn_per_batch
            real = self.real.patches(first_step * per_batch).batch(per_batch)
            dataset = tf.data.Dataset.zip(dataset, real).map(
                lambda drawn, real: tuple(tf.concat(images, axis=0) for images in zip(drawn, real, strict=True))
            )
        return iter(dataset.take(epochs * self.steps_per_epoch - first_step).prefetch(tf.data.AUTOTUNE))
