"""What has been made from which files, and how: a result is kept only for the files, and the way, it was made from.

Each PNG of synthesis contains this as texts, and each row of a record (`densities.csv`, `crop.csv`, `registration.csv`)
as its last two columns.
"""

import csv
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from basics.command_line import OptionError
from basics.files import TEXT, atomic_file, disk_errors_name, read_table, write_table

SOURCE, DIGEST, MADE_WITH = "source", "photo_digest", "made_with"  # texts in a PNG
DIGITS = 16  # of a digest, hexadecimal


@dataclass(frozen=True)
class Origin:
    """What a result was made from, and how.

    digest: of the content of the files; "" if one could not be read. made_with: weights, arithmetic and the options
    that change pixels, in words. source: the photograph's path, for people: two paths may lead to the same file.
    """

    digest: str
    made_with: str
    source: str = ""

    def texts(self) -> dict[str, str]:
        """The texts of a PNG by their keys."""
        return {SOURCE: self.source, DIGEST: self.digest, MADE_WITH: self.made_with}

    def is_of(self, result: "Origin | None") -> bool:
        """Whether a result was made from the same files in the same way; never if a file could not be read."""
        return bool(self.digest and result) and (result.digest, result.made_with) == (self.digest, self.made_with)


def digest_of(files: Iterable[Path], settings: str = "") -> str:
    """A short digest of the content of some files, and of settings of this result; "" if a file cannot be read."""
    content = hashlib.sha256(settings.encode())
    for file in files:
        try:
            content.update(hashlib.sha256(file.read_bytes()).digest())
        except (OSError, ValueError):  # ValueError: a path that no file can have
            return ""
    return content.hexdigest()[:DIGITS]


def printable(path: Path) -> str:
    """A path as text that every table and PNG can hold: bytes that are not UTF-8 are written out."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def write_png(image: np.ndarray, path: Path, origin: Origin) -> None:
    """Write (height, width), uint8 or bool, or (height, width, 3), uint8, with texts that tell its origin."""
    texts = PngInfo()
    for key, text in origin.texts().items():
        texts.add_text(key, text)
    with atomic_file(path) as part:
        Image.fromarray(image).save(part, format="PNG", pnginfo=texts)


def read_origin(path: Path) -> Origin | None:
    """The origin of a PNG of the program, read without its pixels; None: another file, or a damaged one.

    The digest is "" in a PNG of version 1.1.0, which holds none.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            texts = image.info
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return Origin(texts.get(DIGEST, ""), texts[MADE_WITH], texts.get(SOURCE, "")) if MADE_WITH in texts else None


class Record:
    """A table with a row for each finished result; rows of earlier commands are kept.

    The first column names the result; the last two are the digest and `made_with` of its origin. Rows are appended when
    a result is finished, so that a table of many rows takes no time, and an interruption loses none. A result may have
    further rows, for its parts, which precede its own; the second column tells these apart. Later rows of a name
    replace earlier ones; without an origin, one says that the result is gone. `close` puts the table in order.
    """

    def __init__(self, path: Path, columns: Sequence[str], own: str | None = None):
        """Read the existing table, which a spreadsheet program may have saved.

        Args:
            path: of the table.
            columns: all.
            own: what the second column of a result's own row says; None: results have one row.

        Raises:
            OptionError: it cannot be read, or has other columns.
        """
        self.path, self.columns = path, tuple(columns)
        self.rows: dict[str, dict[str, str]] = {}
        self.parts: dict[str, list[dict[str, str]]] = {}  # further rows
        self.file, self.lock = None, Lock()
        for row in read_table(path, appended=True) if path.exists() else ():
            if tuple(row) != self.columns:
                raise OptionError(f"{path}: damaged, or from another program or version; choose another --output")
            name = row[self.columns[0]]
            if self.rows.pop(name, None):
                self.parts.pop(name, None)
            if not (row[self.columns[-2]] and row[self.columns[-1]]):
                self.parts.pop(name, None)
            elif own in (None, row[self.columns[1]]):
                self.rows[name] = row
            else:
                self.parts.setdefault(name, []).append(row)

    def origin(self, name: str) -> Origin | None:
        """The origin of a result, if it has a row."""
        row = self.rows.get(name)
        return row and Origin(row[self.columns[-2]], row[self.columns[-1]], row.get(SOURCE, ""))

    def add(self, values: Sequence, origin: Origin, parts: Sequence[Sequence] = ()) -> None:
        """Set the row of a result, and those of its parts, given without the last two columns."""
        *further, row = (
            dict(zip(self.columns, (*one, origin.digest, origin.made_with), strict=True)) for one in (*parts, values)
        )
        name = row[self.columns[0]]
        with self.lock:
            self.rows[name], self.parts[name] = row, further
            self._append(*further, row)

    def drop(self, name: str) -> None:
        """Remove a row, if there is one."""
        with self.lock:
            if self.rows.pop(name, None):
                self.parts.pop(name, None)
                self._append({self.columns[0]: name})

    def _append(self, *rows: dict) -> None:
        with disk_errors_name(self.path):
            if self.file is None:
                self.write()
                self.file = open(self.path, "a", **TEXT)  # noqa: SIM115 - until `close`
            csv.DictWriter(self.file, self.columns, lineterminator="\n").writerows(rows)
            self.file.flush()

    def close(self) -> None:
        """Put the table in order, if rows were appended."""
        if self.file is not None:
            with disk_errors_name(self.path):
                self.file.close()
            self.file = None
            self.write()

    def names(self) -> list[str]:
        """The names of the rows in the table's order."""
        return sorted(self.rows)

    def write(self) -> None:
        """Write the table, in order."""
        self.rows = {name: self.rows[name] for name in self.names()}
        rows = (row for name in self.rows for row in (*self.parts.get(name, ()), self.rows[name]))
        write_table(self.path, self.columns, rows)
