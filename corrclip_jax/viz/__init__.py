"""Images from arrays: palettes, legends, overlays, contact sheets.

Begin with `overlay.py`.
"""
