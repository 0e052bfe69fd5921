"""`corrclip evaluate` as a process of its own, to be killed, on photos drawn for it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image
from small_models import small_model

from corrclip_jax import cli
from corrclip_jax.evaluation import scorer
from corrclip_jax.inference import programs
from corrclip_jax.io.region_maps import write_regions
from corrclip_jax.runtime.sharding import sharded
from corrclip_jax.text.embedding import TextEmbedding

NAMES = ("cat", "dog", "sky")
# Variables of processes that a signal is to meet while they count, however fast the machine is.
SLOWLY = {"SECONDS_A_BATCH": "0.03"}


@dataclass
class Bench:
    """A folder with photos, label files, region maps and a small model, and where its evaluations are forked from.

    Without `networks`, a pixel's class is a function of its colour (`label_by_colour`), and no parameters are read.
    """

    folder: Path
    count: int = 40
    networks: bool = True
    forks: "Forks | None" = None
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

    def start(self, out: str, *options: object, **variables: str) -> "Fork":
        """Begin an evaluation that writes down its counts after every picture."""
        assert self.forks is not None
        return self.forks.start(self.arguments(out, *options), self.log_of(out), self.networks, variables)

    def arguments(self, out: str, *options: object) -> list[str]:
        """Those of the command."""
        arguments = ["evaluate"]
        for option, name in [
            ("--images", "photos"), ("--labels", "truth"), ("--classes-file", "classes.txt"),
            ("--regions", "regions"), ("--out", out),
        ]:  # fmt: skip
            arguments += [option, str(self.folder / name)]
        return [*arguments, "--model", str(self.model), "--save-every", "1", *map(str, options)]

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

    def log_of(self, out: str) -> Path:
        """The file of what the processes say."""
        return self.folder / f"{out}.log"

    def log(self, out: str) -> str:
        """What the processes have said."""
        return self.log_of(out).read_text("utf-8")

    def wait_for(self, out: str, pattern: str, process: "Fork", known: set[str]) -> bool:
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
    """In the place of `make_segment`: a pixel's class is its red modulo the classes. Says how it is divided."""

    def label(params, text, images):
        return images[..., 0].astype(jnp.int32) % text.num_classes

    if mesh is not None:
        print(f"divided over {mesh.size} devices", flush=True)
    divided = label if mesh is None else sharded(label, mesh)
    return lambda params, images, text, sizes, regions, bank=None: SimpleNamespace(
        labels=divided(params, text, images)
    )


def embed_nothing(config, params, others, classes):
    """In the place of `embed_in_all`: as many classes, of one query each."""
    count = len(classes)
    return TextEmbedding(jnp.zeros((count, 1)), jnp.arange(count, dtype=jnp.int32), count)


class Forks:
    """A process that has imported everything and forks evaluations, which begin at once.

    Programs are kept in the folder `compiled`, for one that is killed may leave half a file there.
    """

    def __init__(self, compiled: Path):
        path, pipe = str(Path(__file__).parent), subprocess.PIPE
        program = f"import sys; sys.path.append({path!r}); import evaluation_process as e; e.serve()"
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        command = [sys.executable, "-c", program]
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, text=True)

    def start(self, arguments: list[str], log: Path, networks: bool, variables: dict[str, str]) -> "Fork":
        """Begin `corrclip` with these arguments and further environment variables; it appends to the log."""
        log.touch()  # it is read before the process has opened it
        return Fork(self, self.ask([arguments, str(log), networks, variables]))

    def ask(self, question: Any) -> Any:
        """What `serve` answers."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@dataclass
class Fork:
    """What tests use of `subprocess.Popen`, for a process that `serve` has forked."""

    forks: Forks
    pid: int
    returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.forks.ask(self.pid)
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        end = time.perf_counter() + timeout
        while (code := self.poll()) is None:
            if time.perf_counter() > end:
                raise subprocess.TimeoutExpired("corrclip", timeout)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def serve() -> None:
    """Fork the command for each line with its arguments; asked for a fork's number, say how it ended."""
    import_module("corrclip_jax.cli.runs.evaluate")  # which the command imports late
    for line in sys.stdin:
        question = json.loads(line)
        if isinstance(question, int):
            ended, status = os.waitpid(question, os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        elif (answer := os.fork()) == 0:
            break
        print(json.dumps(answer), flush=True)
    else:
        return
    arguments, log, networks, variables = question
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(output, number)
    os.environ.update(variables)
    sys.argv = ["corrclip", *arguments]
    if not networks:
        scorer.make_segment, scorer.embed_in_all = label_by_colour, embed_nothing
        scorer.in_compute_type = lambda params, dtype: {}  # which would read them
    if pause := float(variables.get("SECONDS_A_BATCH", 0)):
        start = scorer.Scorer._start

        def start_slowly(*arguments, **options):
            time.sleep(pause)
            return start(*arguments, **options)

        scorer.Scorer._start = start_slowly  # type: ignore[method-assign]
    if seconds := float(variables.get("SECONDS_A_PROGRAM", 0)):
        compile_kept = programs.compile_kept

        def compile_slowly(*arguments, **named):
            time.sleep(seconds)
            return compile_kept(*arguments, **named)

        programs.compile_kept = compile_slowly
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
        process = bench.start(out, **SLOWLY)
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
