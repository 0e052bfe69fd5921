"""A small pool of training pictures."""

import pytest
from recipe_path import recipe


@pytest.fixture(scope="session")
def pool(tmp_path_factory):
    """One shard of each kind."""
    pools = recipe("pool")
    folder = tmp_path_factory.mktemp("pool")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pools, "CROPS_PER_SHARD", 24)
        patch.setattr(pools, "SCENES_PER_SHARD", 6)
        pools.draw_shard(folder, ("crops", 0))
        pools.draw_shard(folder, ("scenes", 0))
    return folder
