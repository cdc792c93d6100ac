"""The former name of `dataset_load_mod.py crop`."""

import sys

print("dataset_crop.py: error: is now `python dataset_load_mod.py crop`, with the same options", file=sys.stderr)
sys.exit(2)
