"""Both searches against the authors' program's."""

import jax
import numpy as np
import pytest
from tests_shared import GOLDENS_V2

from corrclip_jax.bank.faiss_index import read_index
from corrclip_jax.method.bank import Bank, search

pytestmark = pytest.mark.skipif(GOLDENS_V2 is None, reason="the outputs of CorrCLIPv2 are not here")


def golden(name):
    with np.load(GOLDENS_V2 / f"{name}.npz") as archive:
        return dict(archive)


find = jax.jit(search, static_argnums=2)


def keys_of(archive, tmp_path):
    (tmp_path / "keys.faiss").write_bytes(archive["faiss"].tobytes())
    return read_index(tmp_path / "keys.faiss")


@pytest.mark.parametrize("name", ["flat", "ivfpq", "ivfpq_cut", "ivfpq_sprs"])
def test_search_through_the_index_file(name, tmp_path):
    index = golden(f"search_{name}")
    keys = keys_of(index, tmp_path)
    sign = 1 if name == "flat" else -1  # distances are smaller where they are nearer
    for stem in [key for key in index if key.startswith("indices")]:
        if lists := stem.partition("_nprobe")[2]:
            keys = keys.replace(lists=int(lists))
        ids, scores = find(Bank(keys, {}), index["queries"], int(index["k"]))
        np.testing.assert_array_equal(ids, index[stem])
        found = index[stem] >= 0
        distances = index[stem.replace("indices", "distances")]
        np.testing.assert_allclose(sign * np.asarray(scores)[found], distances[found], atol=2e-6)


def test_exact_search_of_stored_keys():
    flat = golden("search_flat")
    keys = np.zeros((flat["ids"].max() + 1, flat["keys"].shape[1]), np.float16)
    keys[flat["ids"]] = flat["keys"]
    ids, _ = find(Bank(keys, {}), flat["queries"], int(flat["k"]))
    np.testing.assert_array_equal(ids, flat["indices"])


@pytest.mark.parametrize("run", sorted(p.stem for p in GOLDENS_V2.glob("run_*.npz")) if GOLDENS_V2 else [])
def test_neighbours_of_a_run(run, tmp_path):
    stages = golden(run)
    ids, _ = find(Bank(keys_of(stages, tmp_path), {}), stages["query_embeddings"], int(stages["k"]))
    np.testing.assert_array_equal(ids, stages["indices_ivfpq"])
    ids, scores = find(Bank(stages["keys"], {}), stages["query_embeddings"], int(stages["k"]))
    np.testing.assert_array_equal(ids, stages["indices"])
    np.testing.assert_allclose(scores, stages["distances"], atol=1e-6)
