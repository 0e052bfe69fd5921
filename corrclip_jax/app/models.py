"""Models of the web page: which can be chosen, and the one that was used last, with its compiled programs."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from corrclip_jax.app.answers import Question, Say
from corrclip_jax.config import Config, takes_points
from corrclip_jax.hub.embedded import EMBEDDED_MODELS
from corrclip_jax.hub.presets import PRESETS, available_models, load, load_lazily
from corrclip_jax.inference.segmenter import Segmenter
from corrclip_jax.text.classes import parse_classes

_KEPT_SETTINGS = 4


def choices(first: str | None = None) -> list[str]:
    """The models that can be chosen: `first`, and those that need no download, the embedded ones last.

    Args:
      first: a name, which may need a download, or a folder.

    Raises:
      ValueError, FileNotFoundError: as `load`, if `first` is neither.
    """
    if first is not None and first not in PRESETS:
        load_lazily(first)
    converted = [model.name for model in available_models() if model.converted]
    here = [*(name for name in converted if name not in EMBEDDED_MODELS), *EMBEDDED_MODELS]
    return here if first is None else list(dict.fromkeys([first, *here]))


class LoadedModels:
    """Segmenters by model and settings: those of the last model are kept, and share its parameters."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._loaded: tuple[Config, Mapping[str, Any]] | None = None
        self._segmenters: OrderedDict[tuple[float, int], Segmenter] = OrderedDict()
        self._lock = threading.Lock()
        self.preparing: str | None = None

    def __call__(self, question: Question, say: Say) -> Segmenter:
        """The segmenter with the question's settings, once none is being prepared.

        Raises:
          ValueError, FileNotFoundError: as `Segmenter`.
        """
        if self.preparing:
            say(f"Waiting until {self.preparing} is compiled")
        with self._lock:
            return self._segmenter(question, say)

    def prepare(self, name: str, photo: Path, classes: str) -> None:
        """Load a model and compile what labels a photo, before anybody asks; `preparing` is its name meanwhile."""
        with self._lock:
            self.preparing = name
            try:
                self._segmenter(Question([], "", name), lambda text: None)(photo, parse_classes(classes))
            finally:
                self.preparing = None

    def _segmenter(self, question: Question, say: Say) -> Segmenter:
        if self._loaded is None or question.model != self._name:
            say(f"Loading {question.model}")
            self._segmenters.clear()
            self._loaded = None
            config, params = load(question.model)
            self._name, self._loaded = question.model, (config, jax.device_put(dict(params)))
        settings = question.threshold, question.points
        if settings not in self._segmenters:
            points = question.points if takes_points(self._loaded[0].regions.source) else None
            self._segmenters[settings] = Segmenter(
                self._loaded, background_threshold=question.threshold, points=points
            )
        self._segmenters.move_to_end(settings)
        while len(self._segmenters) > _KEPT_SETTINGS:
            self._segmenters.popitem(last=False)
        return self._segmenters[settings]
