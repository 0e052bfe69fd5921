"""Sphinx: the package's docstrings and the Markdown of docs/, of the root and of the notebooks."""

import os
import re
import shutil
import typing
from pathlib import Path

typing.GENERATING_DOCUMENTATION = True  # jaxtyping then shows Int[Array, "B H W"] as it is written

from corrclip_jax import __version__  # noqa: E402

ROOT = Path(__file__).parents[1]

project = "corrclip_jax"
author = "the corrclip_jax authors"
copyright = f"2026, {author}. Apache-2.0"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
html_theme = "sphinx_book_theme"
html_title = "corrclip_jax"
html_theme_options = {"show_toc_level": 2, "use_download_button": False}
html_static_path: list[str] = []

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autoclass_content = "both"
default_role = "code"  # `name` in a docstring, as in Markdown
python_maximum_signature_line_length = 90
napoleon_numpy_docstring = False

# The notebooks are kept without outputs. With CORRCLIP_DOCS_RUN=1 they run here, on the embedded model.
nb_execution_mode = "cache" if os.environ.get("CORRCLIP_DOCS_RUN") == "1" else "off"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

# Files of the root that a page includes, and the page: their links to each other lead to the pages.
PAGES = {
    "README.md": "index.md",
    "README.md#models": "guides/weights.md#published-models",
    "METHOD.md": "method.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "weights/README.md": "weights.md",
    "weights/tiny/README.md": "tiny.md",
}
NOTEBOOKS = ROOT / "notebooks"


def link_to_pages(app, path, parent, content):
    """Let links of an included root file lead to the pages of the documentation."""
    folder = (Path(app.srcdir) / path).resolve().parent

    def replace(match):
        target, hash, anchor = match[1].partition("#")
        if re.match(r"[a-z]+:", target) or not target:
            return match[0]
        name = os.path.relpath(folder / target, ROOT)
        if f"{name}#{anchor}" in PAGES:
            return f"](/{PAGES[f'{name}#{anchor}']})"
        if name.startswith("docs/") and name.endswith(".md"):
            return f"](/{name.removeprefix('docs/')}{hash}{anchor})"
        page = PAGES.get(name) or (name if name.startswith("notebooks/") else None)
        return match[0] if page is None else f"](/{page}{hash}{anchor})"

    content[0] = re.sub(r"\]\(([^)\s]+)\)", replace, content[0])


def copy_notebooks(app):
    """Put copies of the notebooks where Sphinx looks for pages."""
    folder = Path(app.srcdir) / "notebooks"
    folder.mkdir(exist_ok=True)
    for notebook in NOTEBOOKS.glob("*.ipynb"):
        shutil.copyfile(notebook, folder / notebook.name)


def setup(app):
    """Connect both to Sphinx; notebooks that run find no network, so that they show the embedded model."""
    if nb_execution_mode != "off":
        os.environ |= {"HF_HUB_OFFLINE": "1", "https_proxy": "http://127.0.0.1:9"}
    app.connect("include-read", link_to_pages)
    app.connect("builder-inited", copy_notebooks)
