"""Shared by programs that write pairs: the output folder, file names and formats, and the record of finished pairs."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pair_table import PairRow
from pix_command import OptionError, atomic_file, read_table, write_table

PAIRS = "pairs.csv"  # the table of pairs that is written
JPEG_QUALITY = 95

Case = PairRow  # or a row of `load_data_cases`, which has the same attributes


def check_output(output: Path, target: Path, source: Path, record: str) -> None:
    """Reject an output folder that is not for this program's results.

    Args:
        output: the folder, as the user named it.
        target: where in it the data set will be written.
        source: the data set that is read.
        record: name of the table that marks a folder as this program's.

    Raises:
        OptionError: the folder lies in the data set, contains it, or has other content.
    """
    one, other = source.resolve(), target.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise OptionError(f"--output {output}: lies in the data set {source}, or contains it; choose another folder")
    if output.exists() and not (output.is_dir() and ((output / record).exists() or not any(output.iterdir()))):
        raise OptionError(f"--output {output}: exists, but is not from this program; choose a new or empty folder")


class Record:
    """The finished pairs: a table with a row for each, in the order of the pairs; rows of an earlier call are kept.

    The first column is `name`. The last one contains the weights, and the options that change a result.
    """

    def __init__(self, path: Path, columns: Sequence[str], made_with: str, names: Sequence[str]):
        """Read the existing table, or write an empty one, which marks the folder as this program's.

        Raises:
            OptionError: it is damaged, of other data, or was made with other weights or options.
        """
        self.path, self.columns, self.made_with, self.names = path, tuple(columns), made_with, names
        self.rows: dict[str, dict] = {}
        for row in read_table(path) if path.exists() else ():
            before = row.get(self.columns[-1])
            if tuple(row) != self.columns or not before:
                raise OptionError(f"{path}: damaged, or from another program; choose another --output")
            if row["name"] not in names:
                raise OptionError(f"{path}: has {row['name']}, which is not in the data; choose another --output")
            if before != made_with:
                raise OptionError(
                    f"{path}: was made with {before}, not {made_with}; use the same (--run, ...), or another --output"
                )
            self.rows[row["name"]] = row
        self.write()

    def add(self, values: Sequence[str]) -> None:
        """Set the row of one pair, all columns but the last one, and write the table."""
        row = dict(zip(self.columns, (*values, self.made_with), strict=True))
        self.rows[row["name"]] = row
        self.write()

    def write(self) -> None:
        """Write the table."""
        write_table(self.path, self.columns, [self.rows[name] for name in self.names if name in self.rows])


def beside_table(kind: str, case: Case) -> Path:
    """Where the photograph ("fundus") or the OCT-A ("octa") of a case lies, relative to the written table."""
    suffix = getattr(case, kind).suffix
    return Path(kind, case.name if case.name.endswith(suffix) else case.name + suffix)


def copy_file(source: Path, target: Path, keep: bool = False) -> None:
    """Copy a file atomically; its folder is created. With `keep` an existing file is kept."""
    if not (keep and target.exists()):
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as part:
            shutil.copyfile(source, part)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image (height, width, 3 or 4), uint8, in the format of the path's suffix; a grey, opaque one as grey."""
    kind = Image.registered_extensions()[path.suffix.lower()]
    colours, alpha = image[..., :3], image[..., 3:]
    if (colours == colours[..., :1]).all() and (alpha == 255).all():
        image = colours[..., 0]  # grey
    elif kind in ("JPEG", "BMP"):
        image = colours
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as part:
        Image.fromarray(image).save(part, format=kind, quality=JPEG_QUALITY)
