"""The generator for other programs: each format in a fresh process that has nothing of ours."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

import pix_pix_gen
from pix_generator import Generator
from run import export as program
from run.checkpoints import RunError, read_run, write_run
from run.export import export
from run.predict import Predictor
from run.settings import EXPORT_FORMATS, Settings

SIZES = ((128, 192), (192, 64))  # px
# What a program without these modules does; `fundus` is the input, `octa` the output.
LOAD = {
    "keras": "import keras; octa = keras.models.load_model(path)(fundus, training=False)",
    "saved_model": "import tensorflow as tf; model = tf.saved_model.load(path); octa = model.serve(fundus)",
    "onnx": "import onnxruntime; octa, = onnxruntime.InferenceSession(path).run(None, {'input_image': fundus})",
    "litert": """
from ai_edge_litert.interpreter import Interpreter
model = Interpreter(path)
model.resize_tensor_input(model.get_input_details()[0]["index"], fundus.shape)
model.allocate_tensors()
model.set_tensor(model.get_input_details()[0]["index"], fundus)
model.invoke()
octa = model.get_tensor(model.get_output_details()[0]["index"])
""",
}
WITHOUT_TENSORFLOW = "import sys; assert 'tensorflow' not in sys.modules\n"


class Nested(keras.layers.Layer):
    """A layer that no other program has."""

    def call(self, inputs):
        return inputs


def small_network(*layers):
    """A model of images of any size."""
    keras.config.set_dtype_policy("float32")
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, padding="same")(image)
    for layer in layers:
        x = layer(x)
    return keras.Model(image, keras.layers.Conv2D(1, 1, activation="tanh")(x))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A generator, and the folder in which it is in all formats."""
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    generator = Generator(3, (None, None), 2)
    folder = tmp_path_factory.mktemp("exported")
    export(generator, folder, list(EXPORT_FORMATS))
    return generator, folder


def octas_in_a_fresh_process(path, kind, images, folder):
    """What another program makes of some images with an exported generator."""
    np.savez(folder / "fundus.npz", *images)
    code = f"""
import numpy as np
path, octas = {str(path)!r}, []
for fundus in np.load("fundus.npz").values():
    exec({LOAD[kind]!r})
    octas.append(octa)
np.savez("octa.npz", *octas)
"""
    code += WITHOUT_TENSORFLOW if kind in ("onnx", "litert") else ""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=folder)
    return list(np.load(folder / "octa.npz").values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPORT_FORMATS)
def test_exported_generator_predicts_the_same_in_a_fresh_process_at_any_size(exported, tmp_path, kind):
    generator, folder = exported
    images = [np.random.default_rng(7).uniform(-1, 1, (1, *size, 3)).astype(np.float32) for size in SIZES]
    octas = octas_in_a_fresh_process(folder / EXPORT_FORMATS[kind], kind, images, tmp_path)
    for fundus, octa in zip(images, octas, strict=True):
        assert np.abs(octa - Predictor(generator, Settings()).with_own_statistics(fundus)[0]).max() < 1e-3


def test_layers_that_a_user_adds_are_exported(tmp_path):
    keras.config.set_dtype_policy("float32")
    generator = small_network(keras.layers.Dense(5), keras.layers.PReLU(shared_axes=[1, 2]))
    fundus = np.random.default_rng(7).uniform(-1, 1, (1, 128, 192, 3)).astype(np.float32)
    export(generator, tmp_path, ["keras"])
    octa = keras.models.load_model(tmp_path / "generator.keras")(fundus, training=False)
    assert np.abs(octa - Predictor(generator, Settings()).with_own_statistics(fundus)[0]).max() < 1e-3


def test_run_in_bfloat16_is_exported_in_float32(trained_project):
    run = Path("training_checkpoints/small")
    write_run(run, replace(read_run(run).settings, precision="mixed_bfloat16"), "0")
    options = ["--run", str(run), "--export", "model", "--format", "keras"]
    assert pix_pix_gen.main(options) == 0
    model = keras.models.load_model("model/generator.keras")
    assert {layer.compute_dtype for layer in model._flatten_layers()} == {"float32"}


def test_layer_that_cannot_be_exported_is_an_error(tmp_path):
    with pytest.raises(RunError, match="Nested"):
        export(small_network(Nested()), tmp_path / "exported", ["keras"])
    assert not (tmp_path / "exported").exists()


def test_missing_package_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    def write(_, path, kind):
        if kind == "onnx":  # Keras loads the package once in a process, so that hiding it later has no effect
            raise ModuleNotFoundError(name="tf2onnx")
        path.write_text("complete")

    monkeypatch.setattr(program, "write", write)
    with pytest.raises(RunError, match=r"--format onnx: tf2onnx; pip install -r requirements-export\.txt"):
        program.export(small_network(), tmp_path, ["keras", "onnx"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", ["--export model --format pdf", "--format keras a.png"])
def test_wrong_formats_are_refused(refused, options):
    assert "--format" in refused(pix_pix_gen, *options.split())
