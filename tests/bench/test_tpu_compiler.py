"""A small model through the real TPU compiler (`libtpu`), without a TPU."""

import pytest
from small_models import small_config

from corrclip_jax.bench.compile_for import compile_for
from corrclip_jax.cli.runs.bench_tables import compiled_table
from corrclip_jax.config import with_fields


@pytest.mark.slow
def test_a_small_model_compiles_for_a_mesh_of_tpus_and_no_image_crosses_chips():
    config = with_fields(small_config(sam2=False), dtype="bfloat16", regions={"source": "none"})
    report = compile_for(config, "v5e", height=60, width=90, batch=4, chips=4)
    assert report["fits"]
    assert report["settings"]["points_per_chunk"] > 1, "as much at once as there, not as on this CPU"
    assert report["bytes"]["temporaries"] > 0
    assert report["cycles"] > report["floor_cycles"] > 0
    assert {"DINO: attention", "CLIP last block inputs: MLP", "correlate"} <= {
        row["name"] for row in report["stages"]
    }
    assert report["collectives"] == {}
    assert "collectives: none" in str(compiled_table(report).renderables[-1])
