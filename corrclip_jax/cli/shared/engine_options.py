"""Options for engines: this process, or actors on a cluster of Ray."""

from enum import StrEnum
from typing import Annotated, NamedTuple

import typer

from corrclip_jax.cli.shared.console import UsageError


class Engine(StrEnum):
    """What works on the photos."""

    local = "local"
    ray = "ray"


class Write(StrEnum):
    """What the engine `ray` writes."""

    parquet = "parquet"
    files = "files"


class RowLabels(StrEnum):
    """How a row of Parquet holds labels."""

    png = "png"
    rle = "rle"


EngineOption = Annotated[
    Engine,
    typer.Option(help="What works on the photos: this process, or actors on a cluster of Ray (extra ray)."),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        help="Ray: the cluster, auto or host:port. [dim]\\[default: one is started on this machine][/]",
        show_default=False,
    ),
]
ActorsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Ray: actors, each with a model of its own. "
        "[dim]\\[default: one a GPU, TPU host or machine of CPUs][/]",
        show_default=False,
    ),
]
DevicesOption = Annotated[
    float | None,
    typer.Option(
        "--devices-per-actor",
        "--num-gpus",
        min=0.01,
        help="Ray: GPUs of each actor; where there are none its TPU chips, else its cores.",
        show_default=False,
    ),
]
WriteOption = Annotated[
    Write | None,
    typer.Option(
        help="Ray: parts of Parquet with one row an image, or the files of the engine local. "
        "[dim]\\[default: parquet][/]",
        show_default=False,
    ),
]
RowLabelsOption = Annotated[
    RowLabels | None,
    typer.Option(help="Ray: how rows of Parquet hold labels. [dim]\\[default: png][/]", show_default=False),
]


class EngineOptions(NamedTuple):
    """The options of engines as they were given, None for those that were not."""

    engine: Engine = Engine.local
    address: str | None = None
    actors: int | None = None
    devices_per_actor: float | None = None
    write: Write | None = None
    row_labels: RowLabels | None = None

    @property
    def is_ray(self) -> bool:
        """Whether actors on a cluster do the work."""
        return self.engine is Engine.ray

    @property
    def writes_rows(self) -> bool:
        """Whether the results are rows of Parquet."""
        return self.is_ray and self.write is not Write.files

    def check(self) -> None:
        """Refuse options that the engine does not have, and an engine that is not installed.

        Raises:
          UsageError: for such options.
          MissingExtraError: for --engine ray without the extra.
        """
        values = self._asdict()
        del values["engine"]
        given = [f"--{name.replace('_', '-')}" for name, value in values.items() if value is not None]
        if given and not self.is_ray:
            raise UsageError(f"{', '.join(given)} needs --engine ray.")
        if self.row_labels is not None and not self.writes_rows:
            raise UsageError("--row-labels is for --write parquet.")
        if self.is_ray:
            from corrclip_jax.ray.cluster import require_ray

            require_ray("clusters (--engine ray)")
