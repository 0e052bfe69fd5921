"""Put trained towers where `load("tiny")` finds them.

`python weights/tiny/pack.py --clip RUN --dino RUN --sam2 RUN`, where a run is a recipe's output folder; a tower
without a run stays what it is there. Values keep 12 of float32's 24 significant bits, so that the files, which stay
float32, compress to less than two thirds.
"""

import argparse
import csv
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from clip_batches import VOCABULARY
from evaluate import trained
from tiny import CONFIG

from corrclip_jax.config import with_fields
from corrclip_jax.params.model_folder import DESCRIPTION, read, read_description, write_description
from corrclip_jax.params.model_folder import VOCABULARY as VOCABULARY_FOLDER
from corrclip_jax.params.structure import check_params, networks_of

TOWERS = tuple(networks_of(CONFIG))
_DROPPED_BITS = 12
_COMMITTED = "commit_success.txt"


def rounded(x: np.ndarray) -> np.ndarray:
    """float32 values rounded to 12 significant bits, the others zero."""
    bits = np.array(x, np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + (1 << (_DROPPED_BITS - 1))) >> _DROPPED_BITS << _DROPPED_BITS
    return bits.astype(np.uint32).view(np.float32)


def write(folder: Path, params: dict, sources: dict) -> None:
    """Write towers, configuration and vocabulary into `folder`, in place of those there; other files stay."""
    check_params(CONFIG, params)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        new = Path(name)
        for tower in TOWERS:
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
                tree = jax.tree.map(rounded, params[tower])
                checkpointer.save((new / tower).absolute(), args=ocp.args.PyTreeSave(tree))
            # Orbax records a path of this machine.
            (new / tower / _COMMITTED).unlink(missing_ok=True)
        write_description(new, with_fields(CONFIG, vocabulary=str(VOCABULARY)), sources)
        for part in (*TOWERS, VOCABULARY_FOLDER):
            shutil.rmtree(folder / part, ignore_errors=True)
            (new / part).rename(folder / part)
        (new / DESCRIPTION).replace(folder / DESCRIPTION)


def source(tower: str, run: Path) -> dict:
    """Where a tower comes from, for `corrclip.json`."""
    with (run / "log.csv").open() as file:
        *_, last = csv.DictReader(file)
    return {
        "title": f"tiny {tower}, trained on generated scenes",
        "recipe": f"weights/tiny/train_{tower}.py",
        "steps": int(last["step"]),
        "licence": "Apache-2.0",
    }


def gather(folder: Path, runs: Mapping[str, Path | None]) -> tuple[dict, dict]:
    """Towers from runs, and where each comes from; what has no run is what lies in `folder`."""
    params = trained(**runs)
    sources = {tower: source(tower, run) for tower, run in runs.items() if run}
    if len(sources) < len(TOWERS):
        kept, there = read_description(folder)["sources"], read(folder)[1]
        params |= {tower: there[tower] for tower in TOWERS if tower not in sources}
        sources = kept | sources
    return params, sources


def size(folder: Path) -> int:
    """Bytes of the towers' files."""
    return sum(
        file.stat().st_size for name in TOWERS for file in (folder / name).rglob("*") if file.is_file()
    )


def main() -> None:
    """Pack."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for tower in TOWERS:
        parser.add_argument(f"--{tower}", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    runs = {tower: getattr(args, tower) for tower in TOWERS}
    write(args.out, *gather(args.out, runs))
    print(f"{args.out}: {size(args.out) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
