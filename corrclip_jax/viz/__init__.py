"""Images from arrays: palettes, legends, overlays, contact sheets.

May import nothing of the package. Begin with `overlay.py`.
"""
