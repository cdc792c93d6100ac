"""Damaged images and invalid command lines: each ends in a result, or in one line on standard error and status 2."""

import io
import os
import re
import struct
import subprocess
import sys
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import PROJECT, fake_fundus, program, write_tiny_dataset
from PIL import Image

import dataset_load_mod as dlm
import pix_pix_eval as evaluate
import pix_pix_gen as gen
import pix_pix_train as train
import run.checkpoints as pix_run
from run.data import load_run_data
from run.settings import Settings

IMAGES = 160
COMMANDS = 100
SUFFIXES = (".png", ".jpg", ".tif", ".bmp")
SETTINGS = Settings(patch_size=64, batch_size=4, precision="float32", name="x", data="data/UT-FSOCTA-v1")


@pytest.fixture(scope="module")
def networks():
    return train.Pix2Pix(SETTINGS)


@pytest.fixture
def folder(project, monkeypatch, networks):
    """A folder to run in, with the tiny data set; the networks are always the same, and are not trained."""
    monkeypatch.setattr(train, "Pix2Pix", lambda settings: networks)
    monkeypatch.setattr(train, "train_epochs", lambda run: 0)
    pix_run.save(tf.train.Checkpoint(generator=networks.generator), Path("training_checkpoints/x"), step=1, keep=1)
    return project


# --- images ----------------------------------------------------------------------------------------------------------


def encoded(image, suffix, **options):
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, {".png": "PNG", ".jpg": "JPEG", ".tif": "TIFF", ".bmp": "BMP", ".gif": "GIF"}[suffix], **options)
    return file.getvalue()


def declared_huge(width, height):
    """A PNG of a few bytes that claims to be of any size."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")


def odd_images(fundus):
    """Images that are intact, but of an odd kind: (suffix, bytes)."""
    picture = Image.fromarray(fundus)
    values = fundus[..., 0].astype(np.float32)
    with_nan = np.where(values > 100, np.nan, values)
    frames = [picture.rotate(angle) for angle in (0, 90, 180)]
    yield ".png", b""
    yield ".png", declared_huge(2**31 - 1, 2**31 - 1)
    yield ".png", declared_huge(60_000, 60_000)
    yield ".png", declared_huge(13_000, 13_000)
    yield ".png", declared_huge(7000, 7000)
    yield ".png", declared_huge(0, 10)
    yield ".png", encoded(picture, ".png", save_all=True, append_images=frames)
    yield ".tif", encoded(picture, ".tif", save_all=True, append_images=frames)
    yield ".png", encoded(picture, ".gif", save_all=True, append_images=frames)
    yield ".jpg", encoded(picture.convert("CMYK"), ".jpg")
    yield ".tif", encoded(picture.convert("CMYK"), ".tif")
    yield ".tif", encoded(picture.convert("LAB"), ".tif")
    yield ".tif", encoded(Image.fromarray(with_nan), ".tif")
    yield ".tif", encoded(Image.fromarray(values.astype(np.int32)), ".tif")
    yield ".png", encoded(Image.fromarray(values.astype(np.uint16) * 257), ".png")
    yield ".tif", encoded(Image.fromarray(values.astype(np.uint16) * 257), ".tif")
    yield ".png", encoded(picture.convert("P"), ".png")
    yield ".png", encoded(picture.convert("1"), ".png")
    for size in ((1, 1), (1, 300), (300, 1), (2, 2)):
        yield ".png", encoded(picture.resize(size), ".png")
    yield ".png", encoded(Image.new("RGB", (80, 80)), ".png")
    for suffix in SUFFIXES:  # a wrong extension
        yield suffix, encoded(picture, ".gif")
        yield suffix, encoded(picture, ".png")
        yield suffix, b"not an image\n" * 99


def damaged(random, content):
    """Bytes with a few bits flipped, cut off, zeroed, or with a piece repeated."""
    content = bytearray(content)
    kind = random.integers(4)
    start, length = int(random.integers(len(content))), int(random.integers(1, 200))
    if kind == 0:
        for place in random.integers(0, len(content), random.integers(1, 30)):
            content[place] ^= 1 << random.integers(8)
    elif kind == 1:
        del content[start:]
    elif kind == 2:
        content[start : start + length] = bytes(len(content[start : start + length]))
    else:
        content[start:start] = content[start : start + length]
    return bytes(content)


def fuzzed_images(count):
    """(suffix, bytes) of `count` images, the odd ones first."""
    random = np.random.default_rng(20231)
    fundus = fake_fundus(random, 70, 80)
    found = list(odd_images(fundus))
    intact = [(suffix, encoded(Image.fromarray(fundus), suffix)) for suffix in SUFFIXES]
    while len(found) < count:
        suffix, content = intact[len(found) % len(intact)]
        found.append((suffix, damaged(random, content)))
    return found


def outcome(program, options, capsys):
    """Call a program's main; checks that it ends with a result or one line, and returns its status."""
    capsys.readouterr()
    try:
        status = program.main(options)
    except SystemExit as stopped:  # from argparse
        status = stopped.code
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith(program.PROGRAM)]
    assert status in (0, 2), (options, status)
    assert len(error) == (status == 2), (options, error)
    assert all(line.startswith(f"{program.PROGRAM}: error: ") for line in error)
    return status


@pytest.mark.slow
def test_synthesis_does_or_names_every_fuzzed_image(folder, capsys):
    Path("photos").mkdir()
    pix_run.write_run(Path("training_checkpoints/x"), SETTINGS, "0")
    for number, (suffix, content) in enumerate(fuzzed_images(IMAGES)):
        (Path("photos") / f"{number:03}{suffix}").write_bytes(content)
    assert gen.main(["photos", "--run", "training_checkpoints/x"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pix_pix_gen.py: error: ")]
    done = {path.stem for path in Path("synthetic_octa").glob("*.png")}
    named = [line.split("photos/")[1][:3] for line in errors]
    assert sorted([*done, *named]) == [f"{number:03}" for number in range(IMAGES)]
    assert len(done) > 25
    assert len(named) > 50


@pytest.mark.slow
def test_training_and_check_agree_on_every_fuzzed_image(folder, capsys):
    """Each by itself, as the photograph or as the OCT-A of a training pair."""
    fundus_folder = Path("data/UT-FSOCTA-v1/cropped/fundus/disc")
    octa_folder = Path("data/UT-FSOCTA-v1/cropped/octa/disc")
    readable = 0
    for number, (suffix, content) in enumerate(fuzzed_images(IMAGES)):
        image_folder, other = (fundus_folder, octa_folder) if number % 2 else (octa_folder, fundus_folder)
        for path in (*image_folder.glob("3_OD.*"), *other.glob("3_OD.*")):
            path.unlink()
        (image_folder / f"3_OD{suffix}").write_bytes(content)
        (other / "3_OD.png").write_bytes(encoded(Image.fromarray(np.full((70, 80, 3), 90, np.uint8)), ".png"))
        trained = outcome(train, ["--patch-size", "64", "--precision", "float32", "--name", f"n{number}"], capsys)
        assert outcome(dlm, ["check", "data"], capsys) == trained, number
        assert Path(f"logs/fit/n{number}").exists() == (trained == 0)
        readable += trained == 0
    assert 15 < readable < IMAGES - 50


@pytest.mark.slow
def test_huge_image_takes_no_memory(tmp_path):
    write_tiny_dataset(tmp_path)
    (tmp_path / "UT-FSOCTA-v1/cropped/fundus/disc/1_OD.png").write_bytes(declared_huge(13_000, 13_000))
    (tmp_path / "UT-FSOCTA-v1/cropped/octa/disc/2_OS.png").write_bytes(declared_huge(7000, 7000))
    code = (
        f"import sys, resource; sys.path.insert(0, {str(PROJECT)!r}); import dataset_load_mod as dlm\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"status = dlm.main(['check', {str(tmp_path)!r}])\n"
        "print('GB', (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6)\n"
        "sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "13000 x 13000 px; at most 50 megapixels" in done.stdout
    assert float(done.stdout.split("GB ")[1]) < 1


# --- command lines ---------------------------------------------------------------------------------------------------

ODD_VALUES = (
    *("", " ", "-1", "0", "1e999", "nan", "-inf", "99999999999999999999999999", "9" * 5000, "1.5", "0x10", "١٢"),
    *("many", "None", "True", "[]", "{}", "*", "~", ".", "data/..", "/dev/null", "/dev/null/x", "--", "-"),
    *(
        "a b",
        "a'b",
        'a"b',
        "a\nb",
        "a\tb",
        "ä",
        "网膜",
        "é" * 300,
        "x" * 5000,
        "%s%n",
        "$(id)",
        "data",
        "simulated",
    ),
)


def flags_of(program, capsys):
    """The flags of a program, from its help."""
    with pytest.raises(SystemExit):
        program.main(["--help"])
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", capsys.readouterr().out)) - {"--help", "--logdir"})


@pytest.mark.slow
def test_fuzzed_command_lines_end_in_one_line(folder, capsys):
    run = Path("training_checkpoints/x")
    digest = load_run_data(SETTINGS, verbose=False).digest
    pix_run.write_run(run, SETTINGS, digest)
    assert asdict(pix_run.read_run(run)[0]) == asdict(SETTINGS)
    photo = "data/UT-FSOCTA-v1/cropped/fundus/disc/1_OD.png"
    random = np.random.default_rng(7)
    programs = {
        train: ["--data", "data", "--patch-size", "64", "--precision", "float32"],
        gen: [photo],
        evaluate: ["--data", "data", "--resamples", "9"],
        dlm: ["check"],
    }
    flags = {program: flags_of(program, capsys) or ["check", "--archive"] for program in programs}
    before = {path for path in Path().rglob("*") if "cropped" in path.parts or path.parent == run}
    refused = 0
    for number in range(COMMANDS):
        program = list(programs)[number % len(programs)]
        options = list(programs[program])
        for _ in range(random.integers(1, 4)):
            options.append(str(random.choice(flags[program])))
            if random.random() < 0.8:
                options.append(ODD_VALUES[random.integers(len(ODD_VALUES))])
        refused += outcome(program, options, capsys) == 2
    assert COMMANDS / 2 < refused < COMMANDS
    assert before <= {path for path in Path().rglob("*")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pix_pix_gen.py", ["网膜\nb.png"]),
        ("pix_pix_eval.py", ["--run", "网膜\nb"]),
        ("dataset_load_mod.py", ["check", "网膜\nb"]),
        ("pix_pix_train.py", ["--data", os.fsdecode(b"\xff")]),
    ],
)
def test_program_writes_nothing_but_its_line_in_any_encoding(project, name, options):
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run(program(name, *options), capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{name}: error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["pix_pix_train.py", "pix_pix_gen.py", "pix_pix_eval.py", "simulate_retinas.py"])
def test_help_does_not_wait_for_tensorflow(name):
    code = f"import runpy, sys; sys.argv = ['{name}', '--help']\ntry: runpy.run_path('{name}', run_name='__main__')\n"
    code += "except SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=True)
    assert not {"tensorflow", "keras", "skimage"} & set(done.stdout.splitlines()[-1].split())
