"""Time and peak memory of turning one whole photograph into an OCT-A image, with the model loaded.

    python tests/benchmarks/synthesis.py [SIDE]        # SIDE in px, default 1652: a whole photograph of UT-FSOCTA

Each way runs in a process of its own, so that its peak is its own, and once before it is timed (patches on a part of
the photograph), since the first time builds the graph. A bare forward pass, with fixed statistics and nothing around
it, is the measure to compare with. The weights are untrained: time and memory do not depend on them.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

WAYS = {
    "bare forward pass": None,
    "one pass": {},
    "patches, stride 2": {"stride": 2},
    "patches, stride 8": {"stride": 8},
}
POLICIES = ("float32", "mixed_bfloat16")


def measure(way: str, policy: str, side: int) -> dict[str, float]:
    """Seconds for a round photograph of `side` px, and the process's peak memory in GB."""
    import resource

    from pix_pix_gen import Synthesiser, keras, to_model  # first: it keeps TensorFlow's messages away

    # isort: split
    import numpy as np

    from dataset_load_mod import reflect_to_multiple
    from pix_generator import Generator

    keras.config.set_dtype_policy(policy)
    synthesiser = Synthesiser(Generator(3, (None, None), 1))
    rows, columns = np.ogrid[:side, :side]
    fov = np.hypot(rows - side / 2, columns - side / 2) < 0.48 * side
    fundus = np.random.default_rng(0).integers(60, 200, (side, side, 3), dtype=np.uint8) * fov[..., np.newaxis]

    def synthesise(fundus: np.ndarray, fov: np.ndarray) -> None:
        if way == "bare forward pass":
            whole = to_model(reflect_to_multiple(fundus, 64))[np.newaxis]
            synthesiser.with_statistics(whole, [v.value for v in synthesiser.generator.non_trainable_variables])
        elif way == "one pass":
            synthesiser.predict(fundus, fov)
        else:
            synthesiser.predict_by_patches(fundus, fov, 256, **WAYS[way], batch_size=8, published=False)

    part = slice(None, 320 if WAYS[way] else None)
    synthesise(fundus[part, part], fov[part, part])
    started = time.perf_counter()
    synthesise(fundus, fov)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


def main() -> None:
    """Measure every way in both precisions and print the table."""
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
