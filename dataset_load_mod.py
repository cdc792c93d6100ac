"""The data pipeline: files on disk -> table of cases -> images -> patches, and patches back to an image.

    python dataset_load_mod.py download [DIR]    # fetch UT-FSOCTA from Zenodo into data/, or DIR
    python dataset_load_mod.py check [DATA]      # list what a data set contains, and whether training could start

A data set is a table of pairs (`pairs.table`), or laid out as UT-FSOCTA (Zenodo, doi 10.5281/zenodo.6476639):

    UT-FSOCTA-v1/cropped/{fundus,octa}/{disc,macula}/<subject>_<OD|OS>.png    aligned pairs
    UT-FSOCTA-v1/fov45/fundus/<subject>_<OD|OS>.jpg                           whole photographs (`fov_45` too)

Images stay uint8 on [0, 255] in memory and are decoded once per run; they become float32 on [-1, 1] in the batches
(`patch_batches`).
"""

import argparse
import hashlib
import mmap
import shlex
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from scipy.ndimage import binary_erosion, distance_transform_edt

from basics.command_line import OneLineParser, exit_status, report_error
from pairs.download import download, holds_dataset
from pairs.table import PairRow, PairTableError, is_table, read_pairs
from retina.field_of_view import Field, find_field
from retina.images import FORMATS, DataError, read_fundus, read_octa
from retina.images import octa_to_grey as octa_to_grey
from retina.images import visible_below as visible_below
from retina.ut_fsocta import DATASET_NAME, FILE_NAME, PUBLISHED_SUBJECTS, REGIONS, parse_subjects
from run.settings import DEFAULT_SHARES, SAMPLE_RETINAS

if TYPE_CHECKING:
    import tensorflow as tf

PROGRAM = "dataset_load_mod.py"
DATA_FOLDERS = (Path("data") / DATASET_NAME, Path(DATASET_NAME))  # where the program looks for the data set
UNMOVED_FOLDER = "unmoved"  # below cropped/: the OCT-A before registration, and the maps made from them
SAMPLE_SET = Path("data", "phantom", DATASET_NAME)  # sample retinas on disk, to try the programs on
FULL_FIELD_FOLDERS = ("fov45", "fov_45")  # the Zenodo record's name, and the one that the published script reads
PUBLISHED_SPLITS = {split: parse_subjects(subjects) for split, subjects in PUBLISHED_SUBJECTS.items()}
CASE_COLUMNS = PairRow._fields
FUNDUS_CHANNELS = 3

RIM_OF_FIELD = 6  # px: closer to its border, the field fades to black
ENTIRELY_DARK = "is entirely dark; remove it, or replace it with the right photograph"
CUT = "crop the photograph to the area of its OCT-A (with alignment/crop.py)"
SAME_SHAPE = 0.01  # largest relative difference of two aspect ratios that rounding explains
READ_AHEAD = 16  # pairs that are read at once, so that memory does not grow with the number of pairs


@dataclass(frozen=True)
class Pair:
    """One case in memory."""

    fundus: np.ndarray  # (height, width, 3), uint8
    octa: np.ndarray  # (height, width, 1 or 4), uint8
    fov: np.ndarray  # (height, width), bool: inside the camera's field
    resized: bool = False  # the OCT-A, to the size of its photograph


# --- files on disk -> table of cases ---------------------------------------------------------------------------------


def find_dataset(named: str | Path | None, option: str) -> Path | None:
    """Find a data set.

    Args:
        named: a table of pairs; a folder that is, or contains, `UT-FSOCTA-v1`; or SAMPLE_RETINAS, for the sample set
            on disk. None: search DATA_FOLDERS.
        option: the option that `named` comes from, for the error.

    Returns:
        The table, or the folder that contains `cropped`; None if `named` is None and none is found.

    Raises:
        DataError: there is no such table, or the named folder contains no data set.
    """
    if named not in (None, SAMPLE_RETINAS) and not Path(named).exists():
        raise DataError(f"{option} {named}: no such file or folder")
    if named is not None and is_table(named):
        return Path(named)
    folders = DATA_FOLDERS if named is None else (SAMPLE_SET if str(named) == SAMPLE_RETINAS else Path(named),)
    found = next(
        filter(holds_dataset, (place for folder in folders for place in (folder, folder / DATASET_NAME))), None
    )
    if found is None and named is not None:
        raise DataError(
            f"{option} {folders[0]}: is neither a table of pairs (.csv) nor a folder with cropped/{{fundus,octa}}/"
            "{disc,macula}/<subject>_<OD|OS>.png; for other files write a table (see docs/training.md); `python "
            f"{PROGRAM} download` fetches {DATASET_NAME}"
        )
    return found


def load_data_cases(
    data_fold: Path, splits: Mapping[str, Sequence[int]] = PUBLISHED_SPLITS, shares: str = DEFAULT_SHARES
) -> tuple[pd.DataFrame, list[Path]]:
    """List the pairs of a data set.

    Args:
        data_fold: the folder that contains `cropped`, or a table of pairs.
        splits: subject ids of `train`, `validation` and `test`, for a folder.
        shares: of the subjects in these splits, for a table without a column `split`.

    Returns:
        The cases, one row each, sorted: `subject` (int; text in a table), `eye` (OD, OS), `region` (disc, macula),
        `split` (None for a subject that no split names), `fundus` and `octa` (paths), `octa_mm` (None: unknown),
        `octa_unmoved` (path, or None), `original_digest` (text), `name` (unique, such as "disc/37_OS"); see
        `pairs.table.PairRow`. In a table eye and region may be unknown, see `pairs.table.read_pairs`.
        And the files of a folder that have no partner, except hidden files and those with other names.

    Raises:
        DataError: two files of one folder are the same case.
        PairTableError: see `pairs.table.read_pairs`.
    """
    if is_table(data_fold):
        return pd.DataFrame(read_pairs(data_fold, shares), columns=CASE_COLUMNS), []
    split_of = {subject: split for split, subjects in splits.items() for subject in subjects}
    rows, unpaired = [], []
    for region in REGIONS:
        fundus = list_eyes(data_fold / "cropped" / "fundus" / region)
        octa = list_eyes(data_fold / "cropped" / "octa" / region)
        unmoved = list_eyes(data_fold / "cropped" / UNMOVED_FOLDER / "octa" / region)
        for key in fundus.keys() & octa.keys():
            name, split = f"{region}/{key[0]}_{key[1]}", split_of.get(key[0])
            rows.append((*key, region, split, fundus[key], octa[key], None, unmoved.get(key), "", name))
        unpaired += [(fundus.get(key) or octa[key]) for key in fundus.keys() ^ octa.keys()]
    return pd.DataFrame(sorted(rows, key=lambda row: row[:3]), columns=CASE_COLUMNS), sorted(unpaired)


def list_full_fields(data_fold: Path) -> dict[tuple[int, str], Path]:
    """The whole photographs of a data set by (subject, eye); empty if it has none."""
    found: dict[tuple[int, str], Path] = {}
    for name in FULL_FIELD_FOLDERS:
        found |= list_eyes(data_fold / name / "fundus")
    return found


def validation_full_field(data_fold: Path, cases: pd.DataFrame) -> Path | None:
    """The whole photograph of the first validation eye of `cases` that has one: the one that training shows."""
    full_fields = list_full_fields(data_fold)
    validation = cases[cases["split"] == "validation"]
    eyes = zip(validation["subject"], validation["eye"], strict=True)
    return next((full_fields[eye] for eye in eyes if eye in full_fields), None)


def list_eyes(folder: Path) -> dict[tuple[int, str], Path]:
    """Images of a folder that are named `<subject>_<eye>`, by (subject, eye); empty if there is no such folder.

    Raises:
        DataError: two files are of the same eye, such as `7_OD.png` and `7_OD.jpg`.
    """
    found: dict[tuple[int, str], Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = FILE_NAME.fullmatch(path.name)
        if not match or path.suffix.lower() not in FORMATS:
            continue
        key = (int(match["subject"]), match["eye"].upper())
        if key in found:
            raise DataError(f"{found[key]} and {path.name} are the same eye: remove one")
        found[key] = path
    return found


# --- files -> images -------------------------------------------------------------------------------------------------


def field_of_view(fundus: np.ndarray) -> np.ndarray:
    """Where a fundus photograph (height, width, 3), uint8, shows the eye and not the camera's border: bool."""
    return find_field(fundus).mask


def continue_outside(image: np.ndarray, fov: np.ndarray) -> np.ndarray:
    """Continue an image beyond the border of the camera's field by mirroring it there.

    A network then sees no edge at the camera's border, and draws none.

    Args:
        image: (height, width, channels).
        fov: (height, width), bool: inside the field.

    Returns:
        (height, width, channels), dtype as given; unchanged inside the field, except in its fading rim. Where the
        mirrored pixel would lie outside the image, the image's border is repeated; where it would lie outside the
        field, the field's nearest pixel.
    """
    inner = binary_erosion(fov, iterations=RIM_OF_FIELD, border_value=1)
    if inner.all() or not inner.any():
        return image
    here = np.indices(fov.shape, dtype=np.int32)  # (2, height, width)
    nearest = distance_transform_edt(~inner, return_distances=False, return_indices=True)  # (2, height, width)
    last = np.reshape(fov.shape, (2, 1, 1)) - 1
    mirrored = np.clip(2 * nearest - here, 0, last)
    return image[tuple(np.where(inner[tuple(mirrored)], mirrored, nearest))]


def black_outside(image: np.ndarray, fov: np.ndarray) -> np.ndarray:
    """A copy of an image (height, width) or (height, width, channels), black outside the field; alpha is kept."""
    image = image.copy()
    (image if image.ndim == 2 else image[..., :3])[~fov] = 0
    return image


def load_pair(fundus_path: Path, octa_path: Path, octa_channels: int, fov_mask: bool) -> Pair:
    """Read one case; with `fov_mask` find the camera's field, otherwise use the whole image.

    An OCT-A of another size, but the same aspect ratio, is resized to its photograph's size.

    Raises:
        DataError: a file cannot be read, the two differ in aspect ratio, or the photograph shows nothing.
    """
    fundus, octa = read_fundus(fundus_path), read_octa(octa_path, octa_channels)
    resized = resized_to(octa, fundus.shape[:2])
    if resized is None:
        sizes = " and ".join(f"{image.shape[1]} x {image.shape[0]} px" for image in (fundus, octa))
        raise DataError(f"{fundus_path} and {octa_path} have different aspect ratios, {sizes}; {CUT}")
    fov = field_to_use(fundus, fov_mask).mask
    if not fov.any():
        raise DataError(f"{fundus_path}: {ENTIRELY_DARK}")
    return Pair(fundus, resized, fov, resized is not octa)


def resized_to(image: np.ndarray, shape: Sequence[int], nearest: bool = False) -> np.ndarray | None:
    """Resize an image (height, width, channels), uint8, to a height and width, by averaging or linear interpolation.

    With `nearest` each pixel keeps a value of the image. Returns the image itself if it already has that size, None if
    it has another aspect ratio.
    """
    if image.shape[:2] == tuple(shape):
        return image
    height, width = np.divide(image.shape[:2], shape)
    if abs(height / width - 1) > SAME_SHAPE:
        return None
    planes = [Image.fromarray(image[..., channel]) for channel in range(image.shape[2])]
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return np.dstack([plane.resize(tuple(shape[::-1]), method) for plane in planes])


def photo_digest(fundus: np.ndarray) -> str:
    """A fingerprint of a photograph (height, width, 3), uint8, whatever its file is called: 16 hexadecimal digits."""
    content = hashlib.blake2b(repr(fundus.shape).encode(), digest_size=8)
    content.update(np.ascontiguousarray(fundus))
    return content.hexdigest()


def seen_subjects(cases: pd.DataFrame, seen: Collection[str]) -> set:
    """Subjects of some cases whose photograph, or the original that it was cropped from, is in `seen`.

    Args:
        cases: with the columns `subject`, `fundus` and `original_digest`. Unreadable photographs do not count.
        seen: see `run.checkpoints.seen_by`.
    """
    if not seen:
        return set()

    def digest(path: Path) -> str:
        try:
            return photo_digest(read_fundus(path))
        except DataError:
            return ""

    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(digest, cases["fundus"]))
    known = zip(cases["subject"], cases["original_digest"], digests, strict=True)
    return {subject for subject, *found in known if any(one in seen for one in found)}


def field_to_use(fundus: np.ndarray, fov_mask: bool) -> Field:
    """The camera's field, where predictions are made and scored; without `fov_mask` its mask is True everywhere."""
    field = find_field(fundus)
    return field if fov_mask else replace(field, mask=np.ones_like(field.mask))


def load_pairs(cases: pd.DataFrame, octa_channels: int, fov_mask: bool) -> Iterator[Pair]:
    """Read the cases of a table in order, a few ahead. Raises DataError at the first faulty one, as `load_pair`."""
    with ThreadPoolExecutor() as pool:
        for first in range(0, len(cases), READ_AHEAD):
            yield from pool.map(
                lambda case: load_pair(case.fundus, case.octa, octa_channels, fov_mask),
                cases[first : first + READ_AHEAD].itertuples(index=False),
            )


def in_own_pages(image: np.ndarray) -> np.ndarray:
    """A copy outside the heap: in the heap, which temporary arrays fragment, images need half as much memory again."""
    copy = np.ndarray(image.shape, image.dtype, mmap.mmap(-1, image.nbytes))
    copy[...] = image
    return copy


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
        ValueError: the image is smaller than a patch, or the stride is not an integer from 1 to the patch's side.
    """
    if img_resolution[0] < patch_size[0] or img_resolution[1] < patch_size[1]:
        raise ValueError(f"image {tuple(img_resolution[:2])} is smaller than a patch {tuple(patch_size[:2])}")
    if stride != int(stride) or not 1 <= stride <= min(patch_size[:2]):
        raise ValueError(f"stride {stride}: must be a whole number of steps per patch, from 1 to {min(patch_size[:2])}")
    axes = []
    for size, patch in zip(img_resolution[:2], patch_size[:2], strict=True):
        steps = ceil(stride * (size - patch) / patch) + 1
        axes.append(np.minimum(np.arange(steps) * patch // stride, size - patch))
    columns, rows = np.meshgrid(axes[1], axes[0], indexing="ij")
    return np.stack([rows.ravel(), columns.ravel()], axis=1)


def break_img_to_patches(
    img_input: np.ndarray, img_label: np.ndarray | None = None, patch_size: Sequence[int] = (256, 256), stride: int = 1
) -> tuple[np.ndarray, np.ndarray | None]:
    """Cut an image, and its label in the same way, into the study's grid of patches.

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

    Overlaps are averaged with a smooth window, so that no patch ends abruptly. Patches may come from a generator: only
    the image is kept in memory, however large the overlap.

    Args:
        patches: (h, w, channels) each, in the order of `patch_corners`.
        out_img_resolution: height and width of the image in px.
        stride: steps per patch, as when cutting.

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
        raise ValueError(f"{count} patches for an image of {height} x {width} px at stride {stride}: expected {wanted}")
    return (total / weight).astype(dtype)


def blending_window(patch_shape: Sequence[int]) -> np.ndarray:
    """Weights (h, w, 1) on (0, 1]: a raised cosine along each axis, nearly 0 at the border, 1 in the middle."""
    axes = [np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2 for size in patch_shape[:2]]
    return (axes[0][:, np.newaxis] * axes[1])[..., np.newaxis]


def reflect_to_patch(image: np.ndarray, patch_size: Sequence[int]) -> np.ndarray:
    """Extend (height, width, channels) by reflection, below and to the right, to at least the size of a patch."""
    return reflect_out(image, [max(0, patch - size) for patch, size in zip(patch_size, image.shape[:2], strict=True)])


def reflect_to_multiple(image: np.ndarray, multiple: int) -> np.ndarray:
    """Extend (height, width, channels) by reflection, below and to the right, until its sides are multiples of this."""
    return reflect_out(image, [-size % multiple for size in image.shape[:2]])


def reflect_out(image: np.ndarray, missing: Sequence[int]) -> np.ndarray:
    """Extend (height, width, channels) by reflection by that many px below and to the right."""
    return np.pad(image, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="reflect") if any(missing) else image


# --- patches -> the network's values ----------------------------------------------------------------------------------


def preprocess_sample(sample_fundus: "tf.Tensor", sample_octa: "tf.Tensor") -> tuple["tf.Tensor", "tf.Tensor"]:
    """Uint8 on [0, 255] -> float32 on [-1, 1], both images, any shape."""
    import tensorflow as tf  # here, so that reading and checking files need not wait for it

    return tf.cast(sample_fundus, tf.float32) / 127.5 - 1, tf.cast(sample_octa, tf.float32) / 127.5 - 1


# --- command line ----------------------------------------------------------------------------------------------------


def parse_command_line(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = OneLineParser(prog=PROGRAM, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{download,check}")
    fetch = commands.add_parser("download", help="fetch UT-FSOCTA into a folder")
    fetch.add_argument("folder", nargs="?", type=Path, default=DATA_FOLDERS[0].parent, metavar="DIR")
    fetch.add_argument("--archive", type=Path, metavar="FILE", help="the zip, downloaded by hand")
    check = commands.add_parser("check", help="list what a data set contains, and whether training could start")
    check.add_argument("folder", nargs="?", type=Path, metavar="DATA", help=f"(default: {DATA_FOLDERS[0]})")
    return parser.parse_args(argv)


def run_command(options: argparse.Namespace) -> int:
    """Download or check; returns the exit status: 2 if a table of pairs has mistakes.

    Raises:
        DataError: there is no data set, or training could not start.
    """
    if options.command == "download":
        dataset = download(options.folder, options.archive)
        print(f"To examine it: python {PROGRAM} check {shlex.quote(str(dataset))}")
        return 0
    dataset = find_dataset(options.folder, "check")
    if dataset is None:
        where = " and ".join(map(str, DATA_FOLDERS))
        raise DataError(f"no data set in {where}; `python {PROGRAM} download` fetches it")
    from pairs.check import check_dataset, print_findings  # here, because it imports this module

    try:
        found = check_dataset(dataset)
    except PairTableError as error:
        for mistake in error.mistakes:
            report_error(PROGRAM, mistake)
        return 2
    print_findings(dataset, found)
    if found.obstacles:
        more = f" (and {len(found.obstacles) - 1} more)" if found.obstacles[1:] else ""
        raise DataError(f"training could not start: {found.obstacles[0]}{more}")
    data = f" --data {shlex.quote(str(options.folder))}" if options.folder else ""
    print(f"Training could start: python pix_pix_train.py{data}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, download or check, and return the exit status: 2 if training could not start."""
    options = parse_command_line(argv)
    return exit_status(PROGRAM, lambda: run_command(options), "stopped; the same command starts again")


if __name__ == "__main__":
    sys.exit(main())
