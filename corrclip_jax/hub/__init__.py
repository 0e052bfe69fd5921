"""Models by name: presets, download, one-time conversion, and the list of what is here.

Begin with `presets.py`; `parts.py` makes a model of its parts, `offers.py` and `download.py` talk to the hub.
"""
