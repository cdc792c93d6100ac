"""Time and peak memory of predicting the OCT-A of a whole photograph, with the model loaded.

    python research/synthesis.py [SIDE]    # SIDE in px, default 1652: a whole photograph of UT-FSOCTA

Compares the generator's bare forward pass with fixed statistics, the prediction in one pass, and the prediction as
published, with overlapping patches, each in its own process. Each runs once before it is timed, because the first call
compiles. The weights are untrained: time and memory do not depend on them.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pix_pix_gen import PUBLISHED_STRIDE  # first: it keeps TensorFlow's messages away

# isort: split
import keras
import numpy as np

from pix_generator import Generator
from retina.patches import reflect_to_multiple
from run.predict import Predictor, to_model
from run.settings import SIZE_MULTIPLE

WAYS = ("bare forward pass", "one pass", "as published")
POLICIES = ("float32", "mixed_bfloat16")


def measure(way: str, policy: str, side: int) -> dict[str, float]:
    """Seconds for a round photograph of `side` px, and the process's peak memory in GB."""
    keras.config.set_dtype_policy(policy)
    predictor = Predictor(Generator(3, (None, None), 1))
    statistics = [variable.value for variable in predictor.generator.non_trainable_variables]
    rows, columns = np.ogrid[:side, :side]
    fov = np.hypot(rows - side / 2, columns - side / 2) < 0.48 * side
    fundus = np.random.default_rng(0).integers(60, 200, (side, side, 3), dtype=np.uint8) * fov[..., np.newaxis]

    def predict(fundus: np.ndarray, fov: np.ndarray) -> None:
        if way == "bare forward pass":
            whole = to_model(reflect_to_multiple(fundus, SIZE_MULTIPLE))[np.newaxis]
            predictor.with_statistics(whole, statistics).numpy()  # waits for the result
        elif way == "one pass":
            predictor.predict(fundus, fov)
        else:
            predictor.predict_as_published(fundus, fov, patch_size=256, stride=PUBLISHED_STRIDE, batch_size=8)

    part = slice(None, 320 if way == "as published" else None)  # the patches of a part compile the same graph
    predict(fundus[part, part], fov[part, part])
    started = time.perf_counter()
    predict(fundus, fov)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


def main() -> None:
    """Measure each method in both precisions and print the table."""
    if len(sys.argv) > 2:
        print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
        return
    side = sys.argv[1] if len(sys.argv) == 2 else "1652"
    print(f"| {side} x {side} px | precision | seconds | of a bare pass | peak memory, GB |\n|---|---|---|---|---|")
    for policy in POLICIES:
        bare = None
        for way in WAYS:
            command = [sys.executable, __file__, way, policy, side]
            result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
            bare = bare or result["seconds"]
            ratio = result["seconds"] / bare
            print(f"| {way} | {policy} | {result['seconds']:.1f} | {ratio:.2f} | {result['gb']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
