"""Shared by programs that write pairs: the output folder, file names and formats, and the record of finished pairs."""

import filecmp
import hashlib
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from image_files import WRITTEN_FORMATS, DataError, is_leftover, read_image
from pair_table import PairRow
from pix_command import OptionError, atomic_file, read_table, why, write_table

PAIRS = "pairs.csv"  # the table of pairs that is written
JPEG_QUALITY = 95
MADE_OF = ("inputs", "made_with")  # the last columns of a record

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
    usable = output.is_dir() and (
        (output / record).exists() or all(is_leftover(path.name) for path in output.iterdir())
    )
    if output.exists() and not usable:
        raise OptionError(f"--output {output}: exists, but is not from this program; choose a new or empty folder")


class Record:
    """The finished pairs: a table with a row for each, in the order of the pairs; rows of an earlier call are kept.

    The first column is `name`. The last two are `inputs`, a digest of the pair, and `made_with`: the weights, and the
    options that change a result.
    """

    def __init__(self, path: Path, columns: Sequence[str], made_with: str, inputs: dict[str, str], may_lose: bool):
        """Read the existing table, or write an empty one, which marks the folder as this program's.

        Args:
            path: of the table.
            columns: those before MADE_OF.
            made_with: see above.
            inputs: `digest_of` each pair, by name.
            may_lose: whether pairs of an earlier call may be missing now; their rows are then dropped.

        Raises:
            OptionError: it is damaged, of other data, or was made with other weights or options.
        """
        self.path, self.columns, self.made_with, self.inputs = path, (*columns, *MADE_OF), made_with, inputs
        self.rows: dict[str, dict] = {}
        lost = []
        for row in read_table(path) if path.exists() else ():
            if tuple(row) != self.columns or not row["made_with"]:
                raise OptionError(f"{path}: damaged, or from another program or version; choose another --output")
            if row["made_with"] != made_with:
                advice = "use the same (--run, ...), or another --output"
                raise OptionError(f"{path}: was made with {row['made_with']}, not {made_with}; {advice}")
            if row["name"] in inputs:
                self.rows[row["name"]] = row
            else:
                lost.append(row["name"])
        if lost and not may_lose:
            raise OptionError(f"{path}: has {lost[0]}, which is not in the data; choose another --output")
        if lost:
            print(f"NOTE: {path}: pairs that are no longer in the table are dropped: {', '.join(lost)}")
        self.write()

    def is_current(self, name: str) -> bool:
        """Whether a pair has a row that was made from its present files and settings."""
        return name in self.rows and self.rows[name]["inputs"] == self.inputs[name]

    def current(self) -> dict[str, dict]:
        """The rows that were made from the present files and settings of their pair, by name."""
        return {name: row for name, row in self.rows.items() if self.is_current(name)}

    def add(self, values: Sequence[str]) -> None:
        """Set the row of one pair, all columns but MADE_OF, and write the table."""
        row = dict(zip(self.columns, (*values, self.inputs[values[0]], self.made_with), strict=True))
        self.rows[row["name"]] = row
        self.write()

    def write(self) -> None:
        """Write the table."""
        write_table(self.path, self.columns, [self.rows[name] for name in self.inputs if name in self.rows])


def digest_of(files: Iterable[Path], settings: str = "") -> str:
    """A short digest of the content of some files, and of settings of this pair; empty if a file cannot be read."""
    content = hashlib.sha256(settings.encode())
    for file in files:
        try:
            content.update(hashlib.sha256(file.read_bytes()).digest())
        except OSError:
            return ""
    return content.hexdigest()[:16]


def beside_table(kind: str, case: Case) -> Path:
    """Where the photograph ("fundus") or the OCT-A ("octa") of a case lies, relative to the written table.

    In its own format, or as PNG if that is not one of WRITTEN_FORMATS.
    """
    suffix = getattr(case, kind).suffix
    return Path(kind, case.name + (suffix if suffix.lower() in WRITTEN_FORMATS else ".png"))


def copy_file(source: Path, target: Path) -> None:
    """Copy a file atomically, unless its copy exists; its folder is created. Another suffix means another format.

    Raises:
        DataError: the source cannot be read.
        OSError: the target cannot be written.
    """
    if source.suffix != target.suffix:
        write_image(target, read_image(source))
        return
    try:
        content = source.open("rb")
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({why(error)})") from error
    with content:
        if target.exists() and filecmp.cmp(source, target, shallow=False):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as part, part.open("wb") as copy:
            shutil.copyfileobj(content, copy)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image (height, width, 3 or 4), uint8, in the format of the path's suffix; a grey, opaque one as grey."""
    kind = WRITTEN_FORMATS[path.suffix.lower()]
    colours, alpha = image[..., :3], image[..., 3:]
    if (colours == colours[..., :1]).all() and (alpha == 255).all():
        image = colours[..., 0]  # grey
    elif kind in ("JPEG", "BMP"):
        image = colours
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as part:
        Image.fromarray(image).save(part, format=kind, quality=JPEG_QUALITY)
