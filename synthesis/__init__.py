"""Photographs -> OCT-A, vessel maps and densities: in memory with `Synthesiser`, in files with pix_pix_gen.py."""

from basics.command_line import load_tensorflow

load_tensorflow()

from synthesis.synthesiser import Synthesiser

__all__ = ["Synthesiser"]
