"""CorrCLIP in JAX: training-free open-vocabulary segmentation with CLIP, DINO and SAM 2.

    config, params = load("vit-b")
    text_emb = embed_text(config, params, ["cat", ["sky", "cloud"], "grass"])
    result = jax.jit(make_segment(config))(params, images, text_emb)

For people: `Segmenter("vit-b")("photo.jpg", ["cat", "grass"])`. README.md has more, METHOD.md what is computed.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corrclip_jax.config import Config, with_fields
    from corrclip_jax.exported import export, load_exported
    from corrclip_jax.presets import load
    from corrclip_jax.region_set import Regions
    from corrclip_jax.segment import Result, make_segment
    from corrclip_jax.segmenter import Segmentation, Segmenter
    from corrclip_jax.text import TextEmbedding, embed_text

__all__ = [
    "Config",
    "Regions",
    "Result",
    "Segmentation",
    "Segmenter",
    "TextEmbedding",
    "embed_text",
    "export",
    "load",
    "load_exported",
    "make_segment",
    "with_fields",
]

try:
    __version__ = version("corrclip-jax")
except PackageNotFoundError:  # a plain checkout on PYTHONPATH
    __version__ = "0+checkout"

_HOMES = {
    "Config": "config",
    "Regions": "region_set",
    "Result": "segment",
    "Segmentation": "segmenter",
    "Segmenter": "segmenter",
    "TextEmbedding": "text",
    "embed_text": "text",
    "export": "exported",
    "load": "presets",
    "load_exported": "exported",
    "make_segment": "segment",
    "with_fields": "config",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that `corrclip --help` does not wait for JAX."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
