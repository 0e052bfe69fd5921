"""Options of an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from corrclip_jax.config import Config, DtypeChoice
from corrclip_jax.datasets.dataset import Dataset
from corrclip_jax.datasets.label_files import Ignored
from corrclip_jax.datasets.scenes.dataset import SCENES
from corrclip_jax.hub.embedded import EMBEDDED
from corrclip_jax.inference.open_bank import BankLike
from corrclip_jax.inference.other_clips import OtherModel

Classes: TypeAlias = str | Path | Sequence[str | Sequence[str]]


def default_model(dataset: str | Dataset | None) -> str:
    """The model where none is named: "tiny" for the generated scenes, which alone it knows, otherwise "vit-b"."""
    name = dataset.name.partition(",")[0] if isinstance(dataset, Dataset) else dataset
    return EMBEDDED if name == SCENES else "vit-b"


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What to evaluate and how: the keyword arguments of `evaluate`, which says what they mean."""

    dataset: str | Dataset | None = None
    data_root: str | Path | None = None
    images: str | Path | None = None
    labels: str | Path | None = None
    classes: Classes | None = None
    first_id: int = 0
    ignored: Ignored = "auto"
    model: str | Path | tuple[Config, Mapping[str, Any]]
    split: str = "val"
    count: int | None = None
    regions: str | Path | None = None
    points: int | None = None
    background_threshold: float | None = None
    dtype: DtypeChoice | None = None
    assignments: Sequence[str] = ()
    ablation: bool = False
    batch_size: int | None = None
    out: str | Path | None = None
    predictions: bool = False
    save_every: int = 200
    resume: bool = True
    overwrite: bool = False
    distributed: bool = False
    bank: BankLike | None = None
    others: Mapping[str, OtherModel] | None = None
