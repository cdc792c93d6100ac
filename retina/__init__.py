"""Images of the retina: arrays in, arrays out. No TensorFlow."""
