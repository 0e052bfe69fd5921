"""CLIP: `model.py` holds both towers, `transformer.py` their blocks."""
