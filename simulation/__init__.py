"""The parts of simulate_retinas.py: colour fundus photographs and OCT-A scans of retinas that do not exist.

Each module imports only modules listed above it:

    ranges.py    every range that retinas vary in
    trees.py    vessel trees: growing them, and drawing them into pixels
    eye.py      an eye's anatomy and appearance; the maps and noise that both pictures use
    fundus.py   the photograph
    octa.py     the scan
    stream.py   the simulated stream: endless pairs to train and validate on
    dataset.py  the simulated set: files to try the other programs on
"""
