"""File names of model folders, their parts and exported programs. No JAX."""

from corrclip_jax.config import FAMILIES

DESCRIPTION = "corrclip.json"
"""Describes a model folder."""
PART = "part.json"
"""Describes a part, a network that models share."""
VOCABULARY = "vocabulary"
"""The folder of a tokenizer's files."""
EXPORTED = ("export.json", "program.bin", "text.npz")
"""An exported program besides its bank: its description, the program, the text embeddings."""
OWN_NAMES = (*FAMILIES, DESCRIPTION, PART, VOCABULARY, *EXPORTED)
"""What this program writes to the folders of models, parts and exported programs; all else there is the user's."""
