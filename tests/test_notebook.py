"""The notebook runs from top to bottom, with less training, and stores no output."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
from conftest import PROJECT, write_tiny_dataset

COMPLETE_NETWORKS = True  # the notebook predicts with the supplied weights in its own process
NOTEBOOK = PROJECT / "docs" / "octa_synthesis.ipynb"
SHORTER = {  # lines of the notebook, in full, and what the test has in their place
    'PHOTOGRAPH = ""  # such as "me.jpg"': 'PHOTOGRAPH = "data/tiny/UT-FSOCTA-v1/fov45/fundus/26_OD.jpg"',
    'FINE_TUNING = "--epochs 4"  # the default is 25': 'FINE_TUNING = "--epochs 1 --patch-size 128"',
}


def code_cells() -> list[str]:
    """The code of each cell."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def runnable(code: str) -> str:
    """A cell's code with `!` commands as calls of `shell`, and without `%` commands, which are for notebooks only."""
    lines = []
    for line in code.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        command = line.strip()
        if command.startswith("!"):
            lines.append(f"{indent}shell(f{command[1:]!r})")
        elif not command.startswith("%"):
            lines.append(SHORTER.get(line, line))
    return "\n".join(lines)


def shell(command: str) -> None:
    """Run a command with this Python; it must succeed."""
    words = [sys.executable if word == "python" else word for word in shlex.split(command)]
    subprocess.run(words, check=True, capture_output=True, text=True)


def test_notebook_stores_no_output():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def test_lines_that_the_test_shortens_are_in_the_notebook():
    lines = [line for code in code_cells() for line in code.splitlines()]
    assert [line for line in SHORTER if line not in lines] == []


@pytest.mark.slow
def test_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    mpl.use("Agg")
    for path in PROJECT.iterdir():
        if path.suffix == ".py" or path.name in ("simulated", "weights"):
            (tmp_path / path.name).symlink_to(path)
    write_tiny_dataset(tmp_path / "data" / "tiny")
    (tmp_path / "docs").mkdir()
    shutil.copy(NOTEBOOK, tmp_path / "docs")
    monkeypatch.chdir(tmp_path / "docs")
    names = {"shell": shell}
    for code in code_cells():
        exec(runnable(code), names)  # the notebook's own code
    (report,) = Path("data/notebook/evaluation").glob("*/report.html")
    assert f"Evaluation of training_checkpoints/{names['RUN']}" in report.read_text(encoding="utf-8")
