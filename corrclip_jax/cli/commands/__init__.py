"""Commands of the program `corrclip`: one module per command, with its options and checks."""
