"""The paper: windows, similarity, merging, scope, branches, labels; `make_segment` puts them together.

Touches no file. Begin with `segment.py`.
"""
