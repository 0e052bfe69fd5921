"""Data sets: the benchmarks and how their files are read, and the generated scenes of the embedded weights."""
