"""Many computers: each turns one shard of the photographs into OCT-A, with a table and sheets of its own."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from basics.command_line import OptionError
from pairs.origin import Record, printable, read_origin
from retina.vessels import WHOLE
from synthesis.figure import write_sheets
from synthesis.photographs import FIGURE, SHEET, Job


class Shard(NamedTuple):
    """One of several shares of the photographs, numbered from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}of{self.count}"

    def has(self, job: Job) -> bool:
        """Whether a photograph is in this shard: its path decides, so that photographs that are added move no other."""
        digest = hashlib.sha256(printable(job.target).encode()).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1

    def of(self, path: Path) -> Path:
        """The path of this shard's own file."""
        return path.with_name(f"{path.stem}_{self}{path.suffix}")


def collect(table: Path, columns: Sequence[str]) -> list[Path]:
    """Write one table, and sheets of all figures, from those of the shards beside it; returns their paths.

    Raises:
        OptionError: there are none, one is missing, or a row does not belong to the OCT-A of its name.
    """
    shards = sorted(
        Shard(*map(int, match.groups()))
        for path in table.parent.glob(f"{table.stem}_*")
        if (match := re.fullmatch(rf"{table.stem}_(\d+)of(\d+){table.suffix}", path.name))
    )
    if not shards:
        raise OptionError(f"{table.parent}: has no tables of shards; run --shard with --vessels first")
    for number in range(1, shards[0].count + 1):
        if (shard := Shard(number, shards[0].count)) not in shards:
            raise OptionError(f"{shard.of(table)}: does not exist; run --shard {number}/{shard.count} first")
    if other := next((shard for shard in shards if shard.count != shards[0].count), None):
        raise OptionError(f"{other.of(table)}: is of another number of shards; delete the tables that are not wanted")
    whole = Record(table, columns, WHOLE)
    whole.rows, whole.parts = {}, {}
    for shard in shards:
        part = Record(shard.of(table), columns, WHOLE)
        for name, row in part.rows.items():
            origin = part.origin(name)
            if name in whole.rows or not origin.is_of(read_origin(table.parent / name)):
                raise OptionError(f"{part.path}: {name} is not of this row; run that shard again with --overwrite")
            whole.rows[name], whole.parts[name] = row, part.parts.get(name, [])
    whole.write()
    figures = [table.parent / name for name in sorted(whole.rows, key=Path)]
    figures = [path.with_name(f"{path.stem}_{FIGURE}.png") for path in figures]
    figures = [path for path in figures if path.exists()]
    first = [table.parent / SHEET.format(f"{shard}_1") for shard in shards]
    made = next((origin for path in first if (origin := read_origin(path))), None)
    return [table, *(write_sheets(figures, table.parent, made) if made and len(figures) > 1 else [])]
