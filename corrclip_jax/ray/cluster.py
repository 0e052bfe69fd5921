"""Clusters of Ray: connect or start one, share its devices among actors, and run chunks of images on them."""

import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from corrclip_jax.ray.chunks import Size, from_text, measure, to_text
from corrclip_jax.ray.sources import Source
from corrclip_jax.runtime.extras import require

_MOST_BLOCKS = 10_000
_FEW = 2_000  # images whose sizes the driver reads itself
_SIZES = 256  # images of one task that reads sizes
# Size of the object store of a cluster that is started here, which holds keys and errors only.
_STORE_BYTES = 200 << 20
RETRIES = 3  # of a chunk whose actor died
_ANSWER_SECONDS = 5.0  # in which a cluster takes a connection


class ClusterError(OSError):
    """A cluster that cannot be reached or fails, or an error that concerns all images."""


class Actors(NamedTuple):
    """How many actors there are, and what each one gets.

    Attributes:
      number: the number of actors.
      cpus: cores of each.
      gpus: GPUs of each.
      tpus: TPU chips of each.
    """

    number: int
    cpus: float
    gpus: float = 0
    tpus: float = 0

    @property
    def options(self) -> dict[str, Any]:
        """What `Dataset.map_batches` takes."""
        found: dict[str, Any] = {"num_cpus": self.cpus}
        if self.gpus:
            found["num_gpus"] = self.gpus
        return found | ({"resources": {"TPU": self.tpus}} if self.tpus else {})

    def __str__(self) -> str:
        each = (
            f"{self.gpus:g} GPU" if self.gpus else f"{self.tpus:g} TPU" if self.tpus else f"{self.cpus:g} CPU"
        )
        return f"{self.number} actor{'s' * (self.number != 1)} of {each}"


def require_ray(purpose: str = "clusters") -> None:
    """Check that the packages of the extra `ray` are installed.

    Raises:
      MissingExtraError: if they are not.
    """
    require(("ray", "pyarrow", "fsspec"), purpose, "ray")


@contextmanager
def cluster(address: str | None = None) -> Iterator[None]:
    """In the block, Ray is connected to a cluster; one on this machine is started if there is no address.

    What Ray prints goes to stderr.

    Args:
      address: of the cluster: "auto", host:port, or ray://host:port. By default that of RAY_ADDRESS, and else none.

    Raises:
      ClusterError: if it cannot be reached.
    """
    require_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray
    from ray.data import DataContext

    address = address or os.environ.get("RAY_ADDRESS")
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
    begun = not ray.is_initialized()
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if begun:
                _check_answer(address or "local")
                ray.init(
                    address=address or "local",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **({} if address else own),
                )
        except (OSError, ValueError, RuntimeError) as error:
            if not address:
                raise ClusterError(f"Ray cannot be started: {error}") from error
            raise ClusterError(
                f"Ray cannot reach the cluster {address}: {error}. Check that it runs (ray status, on its head "
                "node) and that this machine can reach that port, or leave out --address and RAY_ADDRESS to use "
                "this machine."
            ) from error
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        context = DataContext.get_current()
        context.enable_progress_bars = False
        try:
            yield
        finally:
            if begun:
                ray.shutdown()


def _check_answer(address: str) -> None:
    """Check that host:port takes connections: Ray itself would try for minutes.

    Raises:
      OSError: if it takes none.
      ValueError: for a port out of range.
    """
    scheme, _, place = address.rpartition("://")
    if scheme not in ("", "ray"):
        return
    parts = urlsplit(f"//{place}")
    if parts.hostname is not None and parts.port is not None:  # neither "auto" nor "local"
        socket.create_connection((parts.hostname, parts.port), _ANSWER_SECONDS).close()


def share(actors: int | None, devices: float | None) -> Actors:
    """Share the devices of the cluster among actors: GPUs where there are any, else TPU chips, else cores.

    Args:
      actors: their number; by default as many as the devices allow, on CPUs one a machine.
      devices: of each actor; by default 1 GPU, all TPU chips of a machine, or the cores divided by the actors.

    Raises:
      ClusterError: if there are too few devices.
    """
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for kind in ("GPU", "TPU", "CPU"):
        each = [machine.get(kind, 0) for machine in machines if machine.get(kind, 0) >= 1]
        if not each:
            continue
        most = max(1, len(each) if kind == "CPU" else 0)
        if kind == "CPU":
            count = actors or most
            size = devices or max(1, sum(each) // max(count, len(each)))
        else:
            size = devices or (1 if kind == "GPU" else max(each))
            count = actors or int(sum(one // size for one in each))
        places = sum(one // size for one in each)
        if count < 1 or places < count:
            raise ClusterError(
                f"{count} actors of {size:g} {kind} each do not fit: the cluster has room for "
                f"{places:g}. Choose fewer with --actors, or less for each with --devices-per-actor."
            )
        cores = size if kind == "CPU" else 1
        return Actors(count, cores, size if kind == "GPU" else 0, size if kind == "TPU" else 0)
    raise ClusterError("the cluster has neither GPUs nor TPUs nor CPUs.")


def run_chunks(
    chunks: Sequence[str], worker: type, arguments: Sequence[Any], actors: Actors
) -> Iterator[dict[str, list[str]]]:
    """Give chunks to actors, and yield what their worker returns for each, in any order.

    An actor that dies is replaced, and its chunk is given to another one.

    Args:
      chunks: texts for the column `chunk` of the worker's batches, which have one row.
      worker: a callable class that returns `key` and `error`; a `key` of "" is an error that concerns all images.
      arguments: of its constructor.
      actors: how many.

    Raises:
      ClusterError: for an error that concerns all images, and where actors die again and again.
    """
    from ray.data import ActorPoolStrategy

    def call(dataset: Any) -> Any:
        return dataset.map_batches(
            worker,
            fn_constructor_args=list(arguments),
            compute=ActorPoolStrategy(size=min(actors.number, len(chunks))),
            batch_size=1,
            ray_remote_args_fn=_retried,
            **actors.options,
        )

    for found in _run(chunks, call):
        if "" in found["key"]:
            raise ClusterError(found["error"][found["key"].index("")])
        yield found


def _retried() -> dict[str, Any]:
    return {"max_task_retries": RETRIES}


def read_sizes(sources: Sequence[Source], bands: tuple[int, ...] | None = None) -> list[Size | None]:
    """Height and width of each image (see `chunks.measure`); those of many are read on the cluster."""
    if len(sources) <= _FEW:
        return measure(sources, bands)
    chunks = [to_text(sources[start : start + _SIZES]) for start in range(0, len(sources), _SIZES)]
    sizes: dict[str, Size] = {}
    for found in _run(chunks, lambda dataset: dataset.map_batches(_Sizes(bands), batch_size=1)):
        for key, *size in zip(found["key"], found["height"], found["width"], strict=True):
            if size[0]:
                sizes[key] = (size[0], size[1])
    return [sizes.get(source.key) for source in sources]


class _Sizes:
    """Reads the sizes of chunks in tasks."""

    def __init__(self, bands: tuple[int, ...] | None):
        self._bands = bands

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        sources = [source for text in batch["chunk"] for source in from_text(str(text))]
        sizes = [size or (0, 0) for size in measure(sources, self._bands)]
        return {
            "key": [source.key for source in sources],
            "height": [size[0] for size in sizes],
            "width": [size[1] for size in sizes],
        }


def _run(chunks: Sequence[str], call: Callable[[Any], Any]) -> Iterator[dict[str, list[Any]]]:
    """The batches that come from a data set of chunks, as lists."""
    import ray
    from ray.exceptions import RayError

    items = [{"chunk": chunk} for chunk in chunks]
    dataset = call(ray.data.from_items(items, override_num_blocks=min(len(items), _MOST_BLOCKS)))
    try:
        for batch in dataset.iter_batches(batch_size=None):
            yield {name: column.tolist() for name, column in batch.items()}
    except RayError as error:
        raise ClusterError(f"Ray gave up: {last_line(error)}") from error


def last_line(error: Exception) -> str:
    """What an error of Ray says at its end, where the reason stands below the tracebacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"
