"""The paper: windows, similarity, merging, scope, branches, labels; `make_segment` puts them together.

May import `regions`, `text`, `params.structure`, `models`, `runtime`, `ops` and `config`; touches no file.
Begin with `segment.py`.
"""
