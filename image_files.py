"""Files that hold images, and files that do not."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LeftOut:
    """Files that are no readable images: `text` counts them by suffix."""

    text: str
    may_be_photographs: bool


def left_out(paths: Sequence[Path]) -> LeftOut:
    """Count files by suffix."""
    count = Counter(path.suffix.lower() or "without suffix" for path in paths)
    text = ", ".join(f"{number} {suffix}" for suffix, number in count.most_common())
    return LeftOut(text, bool(set(count) - {".txt", ".csv"}))


def assumed_bits(path: Path) -> int | None:
    """None: nothing had to be assumed."""
    return None
