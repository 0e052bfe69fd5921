"""CorrCLIP in JAX: training-free open-vocabulary segmentation with CLIP, DINO and SAM 2.

    config, params = load("vit-b")
    text_emb = embed_text(config, params, ["cat", ["sky", "cloud"], "grass"])
    result = jax.jit(make_segment(config))(params, images, text_emb)

For people: `Segmenter("vit-b")("photo.jpg", ["cat", "grass"])`. README.md has more, METHOD.md what is computed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from corrclip_jax._version import __version__ as __version__

if TYPE_CHECKING:
    from corrclip_jax.bank.folder import load_bank
    from corrclip_jax.config import Config, with_fields
    from corrclip_jax.evaluation.evaluate import evaluate
    from corrclip_jax.hub.presets import load
    from corrclip_jax.inference.bank import build_bank
    from corrclip_jax.inference.export import export, load_exported
    from corrclip_jax.inference.photo_regions import Regions
    from corrclip_jax.inference.segmentation import Segmentation
    from corrclip_jax.inference.segmenter import Segmenter
    from corrclip_jax.method.segment import Result, make_segment
    from corrclip_jax.runtime.sharding import fetch_batch, put_batch, put_params
    from corrclip_jax.text.embedding import TextEmbedding
    from corrclip_jax.text.encode import embed_text

__all__ = [
    "Config",
    "Regions",
    "Result",
    "Segmentation",
    "Segmenter",
    "TextEmbedding",
    "build_bank",
    "embed_text",
    "evaluate",
    "export",
    "fetch_batch",
    "load",
    "load_bank",
    "load_exported",
    "make_segment",
    "put_batch",
    "put_params",
    "with_fields",
]

_HOMES = {
    "Config": "config",
    "Regions": "inference.photo_regions",
    "Result": "method.segment",
    "Segmentation": "inference.segmentation",
    "Segmenter": "inference.segmenter",
    "TextEmbedding": "text.embedding",
    "build_bank": "inference.bank",
    "embed_text": "text.encode",
    "evaluate": "evaluation.evaluate",
    "export": "inference.export",
    "fetch_batch": "runtime.sharding",
    "load": "hub.presets",
    "load_bank": "bank.folder",
    "load_exported": "inference.export",
    "make_segment": "method.segment",
    "put_batch": "runtime.sharding",
    "put_params": "runtime.sharding",
    "with_fields": "config",
}


def __dir__() -> list[str]:
    """All names, for completion: those that are imported at their first use, too."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that `corrclip --help` does not wait for JAX."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
