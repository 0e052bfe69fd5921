"""The recipes are scripts that import each other by name: `recipe("train_clip")` imports one as they do."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

RECIPES = Path(__file__).parents[1] / "weights" / "tiny"


def recipe(name: str) -> ModuleType:
    """One of the files in weights/tiny, as a module."""
    if str(RECIPES) not in sys.path:
        sys.path.insert(0, str(RECIPES))
    return importlib.import_module(name)
