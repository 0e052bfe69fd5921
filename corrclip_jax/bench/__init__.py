"""Speed: seconds, arithmetic and memory of the method's stages, and of whole folders of images.

Only `cli` imports it. Begin with `measure.py`, which writes the report of `corrclip bench`. `flops` counts a
program's arithmetic, `clock` measures the device, `stages` splits the method into programs of its own,
`against_torch` runs the torch reference of a checkout's tests. `folder` and `reading` are programs of their own:
throughput over a folder, and of the host's reading alone.
"""
