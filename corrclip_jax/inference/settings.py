"""Settings that users choose for a model, checked and put into its configuration."""

from collections.abc import Sequence
from typing import get_args

from corrclip_jax.config import Config, DtypeChoice, with_fields
from corrclip_jax.config.assignments import with_assignments
from corrclip_jax.config.ranges import COUNT_OR_NONE, SHARE
from corrclip_jax.runtime.compute_type import resolve


def check_settings(
    dtype: DtypeChoice | None = None,
    points: int | None = None,
    background_threshold: float | None = None,
    probability_points: int | None = None,
) -> None:
    """Refuse settings out of range; None is a setting that is not chosen.

    Raises:
      ValueError: what is out of range.
    """
    if dtype not in (None, *get_args(DtypeChoice)):
        raise ValueError(f"dtype must be float32, bfloat16 or auto. Got {dtype!r}.")
    if not COUNT_OR_NONE.holds(points):
        raise ValueError(
            f"points must be 1 or more, a whole number: n gives a grid of n x n point prompts. Got {points}."
        )
    if background_threshold is not None and not SHARE.holds(background_threshold):
        raise ValueError(f"background_threshold is a probability, 0 to 1. Got {background_threshold}.")
    if not COUNT_OR_NONE.holds(probability_points):
        raise ValueError(
            "probability_points is the number of points along the longer side of a photo, 1 or more, a whole "
            f"number. Got {probability_points}."
        )


def with_settings(
    config: Config,
    *,
    dtype: DtypeChoice | None = None,
    points: int | None = None,
    background_threshold: float | None = None,
    assignments: Sequence[str] = (),
) -> Config:
    """The configuration with the settings that are not None.

    Args:
      config: the model's.
      dtype: the networks' compute type; "auto" takes the one that suits the devices.
      points: n for SAM's n x n grid of points.
      background_threshold: pixels whose class is less probable get class 0.
      assignments: any fields by text, as in "method.stride=56" (see `with_assignments`), after the others.

    Raises:
      ValueError: for settings out of range, and fields that do not exist.
    """
    check_settings(dtype, points, background_threshold)
    if dtype is not None:
        config = with_fields(config, dtype=resolve(dtype))
    if points is not None:
        config = with_fields(config, regions={"points_per_side": points})
    if background_threshold is not None:
        config = with_fields(config, method={"background_threshold": background_threshold})
    return with_assignments(config, assignments)
