"""Write a trained generator for programs without these modules: SavedModel, Keras, ONNX, LiteRT.

    python pix_pix_gen.py --export model --format saved_model,keras,onnx,litert

Each takes (batch, height, width, 3), float32 on [-1, 1], sides any multiples of 64, and returns (batch, height, width,
channels), float32 on [-1, 1]: the same as `Predictor` predicts for each image alone, in float32.
"""

import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import keras

from basics.files import disk_errors_name
from pix_layers import layers_of
from run.checkpoints import RunError
from run.settings import EXPORT_FORMATS

REQUIREMENTS = "requirements-export.txt"  # for onnx and litert


def export(generator: keras.Model, folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write a generator, built in float32, in some of EXPORT_FORMATS; returns what is written, in `folder`.

    Raises:
        RunError: the generator has a layer that programs without these modules could not load, or a format needs a
            package that is not installed.
        OSError: writing fails.
    """
    model = with_keras_layers(generator)
    folder.mkdir(parents=True, exist_ok=True)
    names = [EXPORT_FORMATS[kind] for kind in formats]
    # Written to a temporary folder first, so that nothing partial appears.
    with disk_errors_name(folder), tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as temporary:
        made = Path(temporary)
        for kind, name in zip(formats, names, strict=True):
            try:
                write(model, made / name, kind)
            except ImportError as error:
                raise RunError(f"--format {kind}: {error.name or error}; pip install -r {REQUIREMENTS}") from error
        for name in names:
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
            (made / name).replace(folder / name)
    return [folder / name for name in names]


def write(model: keras.Model, path: Path, kind: str) -> None:
    """Write a model in one format. Raises ImportError if the format needs a package that is not installed."""
    if kind == "keras":
        model.save(path)
        return
    if kind == "saved_model":
        model.export(path, format="tf_saved_model", verbose=False)
        return
    any_size = keras.InputSpec(dtype="float32", shape=model.input_shape, name="input_image")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the converters, about themselves
        model.export(str(path), format=kind, verbose=False, input_signature=[any_size])


def with_keras_layers(generator: keras.Model) -> keras.Model:
    """A generator of Keras' own layers that treats each image of a batch as if it were alone.

    Batch normalisation with the statistics of one image is instance normalisation (Ulyanov et al., 2016), and is
    replaced by that.

    Raises:
        RunError: the generator has a layer that is neither Keras' nor one of pix_layers.py.
    """

    def exported_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.layers.BatchNormalization):
            return keras.layers.GroupNormalization(groups=-1, epsilon=layer.epsilon, name=layer.name)
        if isinstance(layer, keras.layers.Dropout):
            return keras.layers.Dropout(layer.rate, name=layer.name)
        if not type(layer).__module__.startswith("keras."):
            raise RunError(f"--export: cannot export the layer {layer.name} ({type(layer).__name__}): not Keras' own")
        return type(layer).from_config(layer.get_config())

    model = keras.models.clone_model(generator, clone_function=exported_layer, recursive=True)
    for source, target in zip(layers_of(generator), layers_of(model), strict=True):
        if isinstance(source, keras.Model):  # a block: its layers are listed too
            continue
        kept = "trainable_variables" if isinstance(source, keras.layers.BatchNormalization) else "weights"
        for one, other in zip(getattr(source, kept), getattr(target, kept), strict=True):
            other.assign(one)
    return model
