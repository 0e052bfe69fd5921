"""Banks built on a cluster: actors of Ray make the entries, and one process plans the build and writes the bank."""

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrclip_jax.bank.folder import Network
from corrclip_jax.bank.unfinished import Entries
from corrclip_jax.inference.bank import Model, listed_paths
from corrclip_jax.inference.bank_build import BankBuild, Progress, build, parts_of
from corrclip_jax.inference.buckets import Batch, Size
from corrclip_jax.io.files import check_writable
from corrclip_jax.ray.cluster import RETRIES, Actors, ClusterError, cluster, last_line, share
from corrclip_jax.ray.segment_images import use_assigned_cores

if TYPE_CHECKING:
    from corrclip_jax.inference.bank_features import BankFeatures

_AHEAD = 2  # parts that an actor has got, so that it does not wait for the next one


def build_bank_on_cluster(
    images: str | os.PathLike | Sequence[str | os.PathLike],
    out: str | os.PathLike,
    model: Model = "v2-b",
    *,
    address: str | None = None,
    actors: int | None = None,
    devices: float | None = None,
    restart: bool = False,
    progress: Progress = lambda done, total: None,
    **options: Any,
) -> BankBuild:
    """Do what `corrclip_jax.build_bank` does, with the networks in actors on a cluster.

    All machines see the images, and region maps, at the same paths; only this one writes the bank. A build that was
    begun in one process is continued here, and the other way round.

    Args:
      images: photos, or folders of photos with their sub-folders.
      out: the bank's folder.
      model: a name, a folder, or configuration and parameters.
      address: of the cluster; by default one is started on this machine.
      actors: how many; by default as many as the devices allow.
      devices: of each actor, which uses the first one of GPUs and TPU chips.
      restart: forget an interrupted build.
      progress: called with how many images are done, and of how many.
      options: more arguments of `build_bank`: regions, points, others, dtype.

    Raises:
      BankError: for a bank, or an interrupted build, of other networks or settings.
      ClusterError: if the cluster cannot be reached, or actors die again and again.
      PhotoError: for missing images.
      FileNotFoundError: for missing weights.
    """
    check_writable(out)
    with cluster(address):
        features = _ClusterFeatures(share(actors, devices), {"model": model, **options})
        return build(listed_paths(images), Path(out), features, restart=restart, progress=progress)


class _ClusterFeatures:
    """Entries of images by actors (`bank_build.Extractor`)."""

    def __init__(self, actors: Actors, arguments: Mapping[str, Any]):
        import ray

        made = ray.remote(_Features).options(max_restarts=RETRIES, max_task_retries=RETRIES, **actors.options)
        self._actors = [made.remote(dict(arguments)) for _ in range(actors.number)]
        about = _result(self._actors[0].about.remote())
        self.backbone: Network = about[0]
        self.clips: Mapping[str, Network] = about[1]
        self.settings: Mapping[str, Any] = about[2]

    def plan(self, sizes: Sequence[Size]) -> list[Batch]:
        """Images that are computed together on the devices of an actor."""
        return _result(self._actors[0].plan.remote(list(sizes)))

    def __call__(
        self, batches: Sequence[Batch], photos: Mapping[int, Path], sizes: Mapping[int, Size]
    ) -> Iterator[tuple[int, dict[int, Entries | str]]]:
        """For each batch, by its number, the entries of its images, or why they have none; in any order."""
        import ray

        first, waiting = 0, deque[tuple[int, list[Batch]]]()
        for part in parts_of(batches):
            waiting.append((first, part))
            first += len(part)
        free = deque(self._actors * _AHEAD)
        running: dict[Any, tuple[int, Any]] = {}
        while waiting or running:
            while waiting and free:
                first, part = waiting.popleft()
                actor = free.popleft()
                indices = [index for batch in part for index in batch.indices]
                task = actor.entries.remote(
                    part, {i: str(photos[i].absolute()) for i in indices}, {i: sizes[i] for i in indices}
                )
                running[task] = first, actor
            (done, *_), _ = ray.wait(list(running))
            first, actor = running.pop(done)
            free.append(actor)
            for number, found in _result(done):
                yield first + number, found


class _Features:
    """An actor's networks, which are loaded when they are needed first."""

    def __init__(self, arguments: dict[str, Any]):
        self._arguments = arguments

    @cached_property
    def _features(self) -> "BankFeatures":
        use_assigned_cores()
        from corrclip_jax.inference.bank import bank_features
        from corrclip_jax.runtime.compilation_cache import keep_compiled_programs

        keep_compiled_programs()
        return bank_features(**self._arguments)

    def about(self) -> tuple[Network, dict[str, Network], dict[str, Any]]:
        """What the bank's description says of the networks and settings."""
        return self._features.backbone, dict(self._features.clips), dict(self._features.settings)

    def plan(self, sizes: Sequence[Size]) -> list[Batch]:
        """Images that are computed together."""
        return self._features.plan(sizes)

    def entries(
        self, batches: Sequence[Batch], photos: Mapping[int, str], sizes: Mapping[int, Size]
    ) -> list[tuple[int, dict[int, Entries | str]]]:
        """The entries of the images of batches."""
        return list(self._features(batches, {i: Path(place) for i, place in photos.items()}, sizes))


def _result(task: Any) -> Any:
    """What a task returns.

    Raises:
      ClusterError: if its actor died too often.
      Exception: what the task raised.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(task)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise ClusterError(f"Ray gave up: {last_line(error)}") from error
