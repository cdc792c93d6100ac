"""The former name of `dataset_load_mod.py register`."""

import sys

print(
    "dataset_register.py: error: is now `python dataset_load_mod.py register`, with the same options", file=sys.stderr
)
sys.exit(2)
