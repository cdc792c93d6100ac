"""Shared by programs that write pairs: the output folder, file names and formats, and the record of finished pairs."""

import filecmp
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from basics.command_line import OptionError, why
from basics.files import atomic_file
from pairs.finished import MADE_WITH, Origin, Record
from pairs.table import PairRow
from retina.images import WRITTEN_FORMATS, DataError, assumed_bits, is_leftover, read_image

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
    usable = output.is_dir() and (
        (output / record).exists() or all(is_leftover(path.name) for path in output.iterdir())
    )
    if output.exists() and not usable:
        raise OptionError(f"--output {output}: exists, but is not from this program; choose a new or empty folder")


class PairRecord(Record):
    """The finished pairs of some data, in their order, all made in one way."""

    def __init__(self, path: Path, columns: Sequence[str], made_with: str, inputs: dict[str, str], may_lose: bool):
        """Read the existing table, or write an empty one, which marks the folder as this program's.

        Args:
            path: of the table.
            columns: all but the last two; the first is `name`.
            made_with: as in `Origin`.
            inputs: `digest_of` each pair, by name.
            may_lose: whether pairs of an earlier call may be missing now; their rows are then dropped.

        Raises:
            OptionError: it is damaged, of other data, or was made with other weights or options.
        """
        super().__init__(path, (*columns, "inputs", MADE_WITH))
        self.origins = {name: Origin(digest, made_with) for name, digest in inputs.items()}
        for row in self.rows.values():
            if row[MADE_WITH] != made_with:
                advice = "use the same (--run, ...), or another --output"
                raise OptionError(f"{path}: was made with {row[MADE_WITH]}, not {made_with}; {advice}")
        lost = [name for name in self.rows if name not in inputs]
        if lost and not may_lose:
            raise OptionError(f"{path}: has {lost[0]}, which is not in the data; choose another --output")
        if lost:
            print(f"NOTE: {path}: pairs that are no longer in the table are dropped: {', '.join(lost)}")
        self.write()

    def is_current(self, name: str) -> bool:
        """Whether a pair has a row that was made from its present files and settings."""
        return self.origins[name].is_of(self.origin(name))

    def current(self) -> dict[str, dict[str, str]]:
        """The rows that were made from the present files and settings of their pair, by name."""
        return {name: self.rows[name] for name in self.origins if self.is_current(name)}

    def add_pair(self, values: Sequence[str]) -> None:
        """Set the row of one pair, all columns but the last two, and write the table."""
        self.add(values, self.origins[values[0]])

    def write(self) -> None:
        """Write the table."""
        self.rows = {name: self.rows[name] for name in self.origins if name in self.rows}
        super().write()


def beside_table(kind: str, case: Case) -> Path:
    """Where the photograph ("fundus") or the OCT-A ("octa") of a case lies, relative to the written table.

    In its own format, or as PNG if that is not one of WRITTEN_FORMATS.
    """
    suffix = getattr(case, kind).suffix
    return Path(kind, case.name + (suffix if suffix.lower() in WRITTEN_FORMATS else ".png"))


def copy_file(source: Path, target: Path) -> None:
    """Copy a file atomically, unless its copy exists; its folder is created. Another suffix means another format.

    An image of 16 bits that does not say how many it uses gets 8, because its new folder could suggest another number.

    Raises:
        DataError: the source cannot be read.
        OSError: the target cannot be written.
    """
    is_image = source.suffix.lower() in WRITTEN_FORMATS
    if source.suffix != target.suffix or (is_image and assumed_bits(source) is not None):
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
