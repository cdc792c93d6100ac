"""What training on misaligned pairs costs, and how much of it registration or a tolerant loss recovers.

    python research/displaced_pairs.py DIR [--pairs 40] [--validation 12]

Writes simulated retinas as two tables of pairs, DIR/aligned.csv and DIR/displaced.csv. Both contain the same
photographs. The OCT-A are unchanged in the first, and moved by a known smooth field, with the faults of real ones, in
the second (see registration_error.py). The validation pairs are aligned in both. Prints the median displacement.

Then register displaced.csv, restore the validation rows, train on all three in the same way,
and compare `validation/vessel_auc`.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from basics.command_line import load_tensorflow, progress_bar
from basics.files import write_table

load_tensorflow()

import numpy as np
from PIL import Image
from registration_error import moved_retinas

from retina.images import to_uint8


def main() -> None:
    """Write the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--pairs", type=int, default=40, metavar="N")
    parser.add_argument("--validation", type=int, default=12, metavar="N")
    args = parser.parse_args()
    number = args.pairs + args.validation
    rows: dict[str, list[dict[str, str]]] = {"aligned": [], "displaced": []}
    lengths = []
    for place, retina in enumerate(progress_bar(moved_retinas(number), total=number, unit="retina")):
        split = "train" if place < args.pairs else "validation"
        if split == "train":
            lengths.append(np.median(np.hypot(*retina.displacement)[retina.vessels]))
        for kind, octa in (("aligned", retina.aligned), ("displaced", retina.octa)):
            octa = octa if split == "train" else retina.aligned
            images = {f"fundus/{place}.png": retina.fundus, f"{kind}/{place}.png": to_uint8(octa)}
            for name, image in images.items():
                (args.folder / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(args.folder / name)
            fundus, scan = images
            rows[kind].append({"fundus": fundus, "octa": scan, "subject": str(place), "split": split})
    for kind, pairs in rows.items():
        write_table(args.folder / f"{kind}.csv", tuple(pairs[0]), pairs)
    print(f"median displacement of {args.pairs} pairs: {np.median(lengths):.1f} px")


if __name__ == "__main__":
    main()
