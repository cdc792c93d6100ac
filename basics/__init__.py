"""What every program needs: command lines and files. Nothing about eyes, no TensorFlow."""
