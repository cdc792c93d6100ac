"""Networks with an eighth of the channels, so that a checkpoint of the tests takes 7 MB in place of 365.

    python tests/narrow.py PROGRAM OPTIONS...    # a program with such networks

All else is as in the complete ones; `test_networks.py` tests these.
"""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path


def narrow(block: Callable) -> Callable:
    """A building block with an eighth of the channels."""
    return lambda filters, *size, **options: block(filters // 8, *size, **options)


def narrow_networks(replace: Callable = setattr) -> None:
    """Make generator and discriminator narrow from now on, unless they are; `replace` is like `setattr`."""
    import pix_discriminator
    import pix_generator

    for module, name in ((pix_generator, "downsample"), (pix_generator, "upsample"), (pix_discriminator, "downsample")):
        block = getattr(module, name)
        if block.__module__ != __name__:
            replace(module, name, narrow(block))


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    from basics.command_line import load_tensorflow

    load_tensorflow()
    narrow_networks()
    runpy.run_path(sys.argv[0], run_name="__main__")
