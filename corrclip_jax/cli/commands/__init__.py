"""Commands of the program `corrclip`: one module a command, its options and nothing else."""
