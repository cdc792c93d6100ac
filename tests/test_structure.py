"""The rule of the folders: each imports only from those above it, and none imports a program."""

import ast
from pathlib import Path

import pytest
from conftest import PROJECT

NETWORKS = ("pix_layers", "pix_generator", "pix_discriminator", "pix_losses")
FOLDERS = {  # what each may import, besides itself
    "basics": (),
    "retina": ("basics",),
    "simulation": ("basics", "retina"),
    "pairs": ("basics", "retina"),
    "run": ("basics", "retina", "simulation", "pairs", *NETWORKS),
    "alignment": ("basics", "retina", "simulation", "pairs", "run", *NETWORKS),
    "synthesis": ("basics", "retina", "simulation", "pairs", "run", *NETWORKS),
    "evaluation": ("basics", "retina", "simulation", "pairs", "run", "alignment", *NETWORKS),
}
OURS = {path.stem for path in PROJECT.glob("*.py")} | set(FOLDERS)


def imported(path: Path) -> set[str]:
    """The project's own folders and top-level modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
    return names & OURS


@pytest.mark.parametrize("folder", FOLDERS)
def test_folder_imports_only_from_those_above_it(folder):
    allowed = {folder, *FOLDERS[folder]}
    wrong = [
        f"{path.relative_to(PROJECT)} imports {name}"
        for path in (PROJECT / folder).glob("*.py")
        for name in sorted(imported(path) - allowed)
    ]
    assert not wrong


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_import_each_other_only(network):
    assert imported(PROJECT / f"{network}.py") <= set(NETWORKS)


def test_every_folder_with_modules_has_its_place_in_the_rule():
    folders = {path.parent.name for path in PROJECT.glob("*/__init__.py")}
    assert folders == set(FOLDERS)


def test_no_module_imports_in_a_circle():
    below = {
        path.relative_to(PROJECT).with_suffix("").as_posix().replace("/", "."): path
        for folder in FOLDERS
        for path in (PROJECT / folder).glob("*.py")
    }
    imports = {name: set() for name in below}
    for name, path in below.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in below:
                imports[name].add(node.module)
    while free := [name for name, others in imports.items() if not others & imports.keys()]:
        for name in free:
            del imports[name]
    assert not imports
