"""Small pairs and a run for the tests of the evaluation, and an evaluation of them: no network is needed."""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import SeesVessels, lines
from PIL import Image

import pix_pix_eval
from alignment.registration import warp
from run.checkpoints import write_run
from run.settings import Settings

SIDE = 96
SHIFT = np.broadcast_to(np.reshape([3.0, -2.0], (2, 1, 1)), (2, SIDE, SIDE))
CROPPED = Path("data/UT-FSOCTA-v1/cropped")


def save(image: np.ndarray, path: Path) -> None:
    """Write an image with values on [0, 255]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.uint8(np.round(image))).save(path)


def vessels_of(seed: int, side: int = SIDE) -> np.ndarray:
    """Vessels of an eye, (side, side) on [0, 1]."""
    return lines(seed, side, spacing=6)


def write_pair(seed: int, fundus: Path, octa: Path, side: int = SIDE, shift: np.ndarray | None = None) -> None:
    """Write a photograph whose vessels are dark, and an OCT-A of the same vessels, displaced by a shift."""
    vessels = vessels_of(seed, side)
    save(np.dstack([np.full((side, side), 200), 150 - 100 * vessels, np.full((side, side), 60)]), fundus)
    save(30 + 200 * (vessels if shift is None else warp(vessels, shift)), octa)


def write_layout_pair(name: str, shift: np.ndarray | None = None) -> None:
    """Write the pair of a name, such as disc/31_OD, in the layout of the study; its number is the seed."""
    seed = int(Path(name).stem.partition("_")[0])
    write_pair(seed, *(CROPPED / kind / f"{name}.png" for kind in ("fundus", "octa")), shift=shift)


def write_table(path: Path, rows: Sequence[Mapping]) -> None:
    """Write a table."""
    pd.DataFrame(rows).to_csv(path, index=False)


def table_of_eyes(number: int, side: int = SIDE, shift: np.ndarray | None = None) -> None:
    """Write pairs.csv with as many eyes, each of another subject."""
    rows = []
    for seed in range(number):
        files = {"fundus": f"photos/{seed:02}.png", "octa": f"scans/{seed:02}.png"}
        write_pair(seed, Path(files["fundus"]), Path(files["octa"]), side, shift)
        rows.append(files | {"subject": f"s{seed:02}", "eye": "OD", "region": "disc"})
    write_table(Path("pairs.csv"), rows)


def start_run(seen: Sequence[str] = ()) -> None:
    """Make the run `run`, whose network sees vessels, and which has seen photographs of these digests."""
    Path("run").mkdir(exist_ok=True)
    Path("run/ckpt-7.index").write_text("the weights")
    write_run(Path("run"), Settings(data="elsewhere", precision="float32", name="run"), "0", seen)


def called(program, *options: str, status: int = 0) -> str:
    """Call a program with the run `run`: all that it prints."""
    stream = io.TextIOWrapper(io.BytesIO(), write_through=True)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stream), redirect_stderr(stream):
        patch.setattr("evaluation.report.DPI", 40)
        for module in ("alignment.crop", "alignment.register", "pix_pix_eval"):
            patch.setattr(f"{module}.announced_predictor", lambda *_: (SeesVessels(), "run/ckpt-7"))
        assert program.main([*options, "--run", "run"]) == status
    return stream.buffer.getvalue().decode()


def evaluated(data: str, *options: str, status: int = 0) -> SimpleNamespace:
    """An evaluation: what it prints, the folder of its results, its report and its tables."""
    output = Path(f"eval{len(list(Path().glob('eval*')))}")
    printed = called(pix_pix_eval, "--data", data, "--output", str(output), *options, status=status)
    folder = next(output.absolute().glob("*"), None)
    if folder is None:
        return SimpleNamespace(printed=printed)
    page = (folder / "report.html").read_text(encoding="utf-8")
    per_eye, summary = (pd.read_csv(folder / f"{name}.csv") for name in ("per_eye", "summary"))
    return SimpleNamespace(printed=printed, folder=folder, report=page, per_eye=per_eye, summary=summary)
