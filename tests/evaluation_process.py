"""`corrclip evaluate` as a process of its own, to be killed, on photos drawn for it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
from PIL import Image
from small_models import small_model

from corrclip_jax import cli
from corrclip_jax.evaluation import scorer
from corrclip_jax.io.region_maps import write_regions

NAMES = ("cat", "dog", "sky")


@dataclass
class Bench:
    """A folder with photos, label files, region maps and a small model; programs compiled once are kept in it.

    Without `networks`, a pixel's class is a function of its colour (`label_by_colour`).
    """

    folder: Path
    count: int = 40
    networks: bool = True
    model: Path = field(init=False)

    def __post_init__(self):
        self.model = small_model(self.folder, sam2=False)
        for name in ("photos", "truth", "regions"):
            (self.folder / name).mkdir()
        for index in range(self.count):
            rng = np.random.default_rng(index)
            pixels = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            labels = rng.integers(0, len(NAMES), (5, 6), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(pixels).save(self.folder / "photos" / f"{index:03d}.png")
            Image.fromarray(labels).save(self.folder / "truth" / f"{index:03d}.png")
            write_regions(self.folder / "regions" / f"{index:03d}.npz", labels.astype(int))
        (self.folder / "classes.txt").write_text("\n".join(NAMES))

    def start(self, out: str, *options: object, **variables: str) -> subprocess.Popen:
        """Begin an evaluation that writes down its counts after every picture."""
        program = "from corrclip_jax.cli import main; main()"
        if not self.networks:
            path = str(Path(__file__).parent)
            program = f"import sys; sys.path.append({path!r}); import evaluation_process as e; e.main()"
        command = [sys.executable, "-c", program, "evaluate"]
        for option, name in [
            ("--images", "photos"), ("--labels", "truth"), ("--classes-file", "classes.txt"),
            ("--regions", "regions"), ("--out", out),
        ]:  # fmt: skip
            command += [option, str(self.folder / name)]
        command += ["--model", str(self.model), "--save-every", "1", *map(str, options)]
        kept = {
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        with (self.folder / f"{out}.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | kept | variables)

    def finish(self, out: str, *options: object, **variables: str) -> np.ndarray:
        """Evaluate to the end; the matrix in the report."""
        process = self.start(out, *options, **variables)
        assert process.wait(300) == 0, self.log(out)
        return self.matrix(out)

    def matrix(self, out: str) -> np.ndarray:
        """The matrix in a report."""
        content = json.loads((self.folder / out / "report.json").read_text("utf-8"))
        assert content["pictures"] == self.count
        return np.array(content["confusion"]["pixels"])

    def log(self, out: str) -> str:
        """What the processes have said."""
        return (self.folder / f"{out}.log").read_text("utf-8")

    def wait_for(self, out: str, pattern: str, process: subprocess.Popen, known: set[str]) -> bool:
        """Wait until a file that is not known appears in the state's folder; False where the process ends first."""
        while process.poll() is None:
            if any(path.name not in known for path in (self.folder / out / "state").glob(pattern)):
                return True
            time.sleep(0.001)
        return False

    def names(self, out: str) -> set[str]:
        """The names of the files in the state's folder."""
        return {path.name for path in (self.folder / out / "state").glob("*.npz")}


def label_by_colour(config, mesh=None):
    """In the place of `make_segment`: a pixel's class is its red modulo the classes."""
    return lambda params, images, text, sizes, regions, bank=None: SimpleNamespace(
        labels=images[..., 0].astype(jnp.int32) % text.num_classes
    )


def main():
    """The command without networks."""
    scorer.make_segment = label_by_colour
    cli.main()


def kill_again_and_again(bench: Bench, out: str, times: int, seed: int) -> int:
    """Begin an evaluation as often as it takes to kill it so many times, each at a random moment, then finish it.

    A run that gets to its end before its moment comes is begun anew. Returns how many pictures were counted at
    the best of these moments.
    """
    rng = np.random.default_rng(seed)
    killed = best = 0
    while killed < times:
        known = bench.names(out)
        process = bench.start(out)
        match rng.choice(["counting", "beginning", "starting"], p=[0.7, 0.15, 0.15]):
            case "counting":
                bench.wait_for(out, "part-*.npz", process, known)
                time.sleep(rng.uniform(0, 0.4))
            case "beginning":
                bench.wait_for(out, "base-*.npz", process, known)
                time.sleep(rng.uniform(0, 0.01))
            case _:
                time.sleep(rng.uniform(0, 6))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
            best = max(best, counted(bench, out))
        else:
            assert process.returncode == 0, bench.log(out)
            for path in (bench.folder / out / "state").iterdir():
                path.unlink()
    return best


def counted(bench: Bench, out: str) -> int:
    """Pictures in the files that count; every one of them at most once."""
    folder = bench.folder / out / "state"
    generations = [int(name.split("-")[1].split(".")[0]) for name in bench.names(out) if "base" in name]
    if not generations:
        return 0
    newest = max(generations)
    total = np.zeros(bench.count, int)
    for path in [folder / f"base-{newest}.npz", *folder.glob(f"part-{newest}-*.npz")]:
        with np.load(path) as file:
            total += file["counted"]
    assert total.max() <= 1
    return int(total.sum())


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
