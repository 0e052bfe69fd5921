"""Models by name: presets, download, one-time conversion, and the list of what is here.

May import `conversion`, `params`, `config` and `io`. Begin with `presets.py`;
`parts.py` makes a model of its parts, `download.py` talks to the hub.
"""
