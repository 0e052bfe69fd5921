"""Both searches against the authors' program's."""

import jax
import numpy as np
import pytest
from tests_shared import GOLDENS_V2

from corrclip_jax.method.bank import Bank, search
from corrclip_jax.method.bank_arrays import quantised_keys

pytestmark = pytest.mark.skipif(GOLDENS_V2 is None, reason="the outputs of CorrCLIPv2 are not here")


def golden(name):
    with np.load(GOLDENS_V2 / f"{name}.npz") as archive:
        return dict(archive)


find = jax.jit(search, static_argnums=2)


def test_exact_search():
    flat = golden("search_flat")
    keys = np.zeros((flat["ids"].max() + 1, flat["keys"].shape[1]), np.float16)
    keys[flat["ids"]] = flat["keys"]
    ids, scores = find(Bank(keys, {}), flat["queries"], int(flat["k"]))
    np.testing.assert_array_equal(ids, flat["indices"])
    found = flat["indices"] >= 0
    np.testing.assert_allclose(np.asarray(scores)[found], flat["distances"][found], atol=1e-6)


@pytest.mark.parametrize("name", ["search_ivfpq", "search_ivfpq_cut", "search_ivfpq_sprs"])
def test_quantised_search(name):
    index = golden(name)
    for stem in [key for key in index if key.startswith("indices")]:
        _, _, lists = stem.partition("_nprobe")
        keys = quantised_keys(
            *(index[key] for key in ("centroids", "pq_centroids", "list_of", "codes", "id_map")),
            **{"lists": int(lists)} if lists else {},
        )
        ids, scores = find(Bank(keys, {}), index["queries"], int(index["k"]))
        np.testing.assert_array_equal(ids, index[stem])
        found = index[stem] >= 0
        distances = index[stem.replace("indices", "distances")]
        np.testing.assert_allclose(-np.asarray(scores)[found], distances[found], atol=2e-6)


@pytest.mark.parametrize("run", sorted(p.stem for p in GOLDENS_V2.glob("run_*.npz")) if GOLDENS_V2 else [])
def test_exact_neighbours_of_a_run(run):
    stages = golden(run)
    ids, scores = find(Bank(stages["keys"], {}), stages["query_embeddings"], int(stages["k"]))
    np.testing.assert_array_equal(ids, stages["indices"])
    np.testing.assert_allclose(scores, stages["distances"], atol=1e-6)
