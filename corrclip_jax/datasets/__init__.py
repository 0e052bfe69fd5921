"""Data sets: the generated scenes that the embedded weights are trained on and measured with."""
