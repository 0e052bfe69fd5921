"""The embedded model through the real GPU compiler (JAX's CUDA plugin), without a GPU."""

import pytest

from corrclip_jax.bench.compile_for import compile_for
from corrclip_jax.cli.runs.bench_tables import compiled_table
from corrclip_jax.config import with_fields
from corrclip_jax.hub.presets import load


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "chips"), [("h100", 4), ("l4", 1)])
def test_the_embedded_model_compiles_for_gpus_with_attention_by_cudnn(kind, chips):
    config = with_fields(load("tiny")[0], dtype="bfloat16", regions={"source": "none"})
    report = compile_for(config, kind, height=60, width=90, batch=4, chips=chips)
    assert report["fits"]
    assert report["settings"]["points_per_chunk"] > 1, "as much at once as there, not as on this CPU"
    assert report["bytes"]["temporaries"] > 0
    assert report["launches"]["attention"] > 0
    assert report["launches"]["all"] > report["launches"]["products"] > 0
    assert {"DINO: attention", "CLIP last block inputs: MLP", "correlate"} <= {
        row["name"] for row in report["stages"]
    }
    assert report["collectives"] == {}
    assert compiled_table(report).renderables
