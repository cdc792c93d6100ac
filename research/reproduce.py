"""Measure the tables in README and docs again, and print what differs.

    python research/reproduce.py [PAGE.md ...] [--list LIST.csv] [--pairs PAIRS] [--write]

Such a table stands below the line "Measured with `python research/...`:", in which LIST.csv and PAIRS stand for those
given here; what needs one that is not given is named and left out. Of the tables that the command prints, it is the one
with the same head. Numbers may differ by 3 %, times and memory (docs/speed.md) by 20 %. --write puts the new tables in
the place of the old ones. The exit status is 1 if anything differs.
"""

import argparse
import re
import subprocess
import sys
import time
from functools import cache
from itertools import zip_longest
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
MEASURED = re.compile(r"^Measured with `python (research/[^`]+)`[^\n]*:\n\n((?:\|[^\n]*\n)+)", re.M)
TABLE = re.compile(r"(?:^\|[^\n]*\n)+", re.M)
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
TOLERANCE, OF_SPEED = 0.03, 0.20
LEAST = 0.0021  # a difference that does not count, whatever the number


def cells_of(row: str) -> list[str]:
    """The cells of a row of a table in Markdown."""
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def is_same(one: str, other: str, tolerance: float) -> bool:
    """Whether two cells have the same words and nearly the same numbers."""
    if NUMBER.sub("#", one) != NUMBER.sub("#", other):
        return False
    pairs = zip(
        *([float(number.replace(",", "")) for number in NUMBER.findall(cell)] for cell in (one, other)), strict=True
    )
    return all(abs(a - b) <= max(tolerance * max(a, b), LEAST) for a, b in pairs)


def differences(old: str, new: str, tolerance: float) -> list[str]:
    """The cells in which two tables with the same head differ, in words."""
    head, *rows = (cells_of(row) for row in old.splitlines())
    found = []
    for before, now in zip_longest(rows[1:], [cells_of(row) for row in new.splitlines()[2:]], fillvalue=["-"]):
        for title, one, other in zip_longest(head, before, now, fillvalue="-"):
            if not is_same(one, other, tolerance):
                found.append(f"{before[0]}, {title}: {one} -> {other}")
    return found


@cache
def tables_of(command: str) -> list[str]:
    """The tables that a command prints; each command runs once."""
    words = [sys.executable, *command.split()]
    return TABLE.findall(subprocess.run(words, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=False).stdout)


def main() -> None:
    """Run the commands of the pages that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE.md", help="default: README.md and all of docs/")
    parser.add_argument("--list", type=Path, metavar="LIST.csv")
    parser.add_argument("--pairs", type=Path, metavar="PAIRS")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    given = {"LIST.csv": args.list, "PAIRS": args.pairs}
    all_same = True
    for page in args.pages or [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]:
        for command, old in MEASURED.findall(page.read_text(encoding="utf-8")):
            title = f"{page.name}: python {command}"
            if missing := [name for name, path in given.items() if name in command and path is None]:
                print(f"{title}: not measured, needs {' and '.join(missing)}", flush=True)
                continue
            full = command
            for name, path in given.items():
                full = full.replace(name, str(path))
            started = time.perf_counter()
            head = old.split("\n")[0]
            new = next((table for table in tables_of(full) if table.startswith(head)), None)
            minutes = (time.perf_counter() - started) / 60
            found = ["prints no such table"]
            if new is not None:
                found = differences(old, new, OF_SPEED if page.name == "speed.md" else TOLERANCE)
            print(f"{title}: {'differs' if found else 'the same'} ({minutes:.1f} min)", flush=True)
            print("".join(f"    {one}\n" for one in found), end="", flush=True)
            all_same &= not found
            if args.write and new is not None:
                text = page.read_text(encoding="utf-8")
                page.write_text(text.replace(old, new, 1), encoding="utf-8")
    sys.exit(not all_same)


if __name__ == "__main__":
    main()
