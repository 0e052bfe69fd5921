"""The documentation's code runs, its links resolve, and the options, modules and settings that it names exist.

The models are replaced by a small random one of the same layout, photos by generated scenes. Blocks of a page
share a namespace and a folder and run in the order of the page.
"""

import importlib
import importlib.util
import json
import os
import re
import shlex
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from command_line import commands as every_command
from command_line import corrclip
from PIL import Image
from small_models import small_model

import corrclip_jax
from corrclip_jax.cli import app
from corrclip_jax.datasets.scenes.generate import val_scene
from corrclip_jax.hub import presets
from corrclip_jax.params.model_folder import save
from corrclip_jax.regions.sources import SOURCES

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "weights/README.md", "weights/tiny/README.md"] + [
    str(path.relative_to(ROOT))
    for folder in ("docs", "docs/guides")
    for path in sorted((ROOT / folder).glob("*.md"))
]
PROSE = [*PAGES, "METHOD.md", "ARCHITECTURE.md", "CHANGELOG.md"]

NOT_RUN = {
    "weights/tiny/README.md": "trains the embedded model for hours; tests/weights runs the recipes for a few steps",
}
"""Pages whose blocks do not run, and why."""

OTHER_PROGRAMS = {
    "python -m pip": "would install packages",
    **dict.fromkeys(("python -m venv", "/tmp/readers/", "export CORRCLIP"), "makes an environment for tests"),
    "python -m pytest": "is what runs this",
    "python -c": "lists the devices of a machine",
    "pre-commit install": "would change the clone",
    ".ci/run": "runs this",
    **dict.fromkeys(("curl", "unzip", "tar", "git clone", "csDownload"), "would fetch or unpack data sets"),
    **dict.fromkeys(("csCreateTrainIdLabelImgs", "python mmsegmentation/"), "is another project's"),
    "sbatch": "needs Slurm; the command inside is checked",
    "gcloud": "needs a TPU; the command inside is checked",
}
"""Shell commands that do not run here, and why."""

RUN = {
    "corrclip models",
    "corrclip models --json",
    "corrclip evaluate --list",
    "corrclip regions photos/ --out region-maps/ --regions slic --segments 256 --sheet",
    "corrclip segment photos/ --classes-file classes.txt --regions region-maps/",
}
"""Commands that run; of all others the options are parsed."""


class Block(NamedTuple):
    language: str
    text: str
    line: int


def read(page):
    return (ROOT / page).read_text("utf-8")


def blocks(page):
    """The fenced blocks of a page, without Sphinx's directives."""
    text = read(page)
    found = [
        Block(match[2].strip(), match[3], text.count("\n", 0, match.start()) + 2)
        for match in re.finditer(r"^(```+)([^\n`]*)\n(.*?)^\1 *$", text, re.MULTILINE | re.DOTALL)
    ]
    return [block for block in found if not block.language.startswith("{")]


def without_blocks(text):
    return re.sub(r"^(```+)[^\n`]*\n.*?^\1 *$", "", text, flags=re.MULTILINE | re.DOTALL)


def commands(block):
    """The commands of a shell block, each a list of words, without comments and variables before them."""
    for line in block.text.replace("\\\n", " ").splitlines():
        for part in re.split(r"\s&&\s", line):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words.pop(0)
            if words:
                yield words


def corrclip_commands(page):
    """Calls of `corrclip` in a page's shell blocks, also inside of words of other commands."""
    for block in blocks(page):
        if block.language == "sh":
            for words in commands(block):
                inner = [
                    shlex.split(word[word.index("corrclip ") :]) for word in words if "corrclip " in word
                ]
                yield from [words] if words[0] == "corrclip" else inner


def parse(words):
    """Parse the options of a call of `corrclip`; click's errors are raised."""
    program = typer.main.get_command(app)
    if all(word.startswith("--") for word in words[1:]):  # such as --version, which exits when it is parsed
        assert set(words[1:]) <= known_options(), words
        return
    with program.make_context("corrclip", words[1:], resilient_parsing=True) as context:
        name, command, rest = program.resolve_command(context, words[1:])
        if hasattr(command, "commands"):  # a group, such as bank
            name, command, rest = command.resolve_command(context, rest)
        command.make_context(name, rest, parent=context).close()


@cache
def known_options():
    program = typer.main.get_command(app)
    parameters = [*program.params, *(one for command in every_command().values() for one in command.params)]
    options = {option for one in parameters for option in [*one.opts, *one.secondary_opts]}
    programs = [
        importlib.util.find_spec(f"corrclip_jax.bench.{name}").origin for name in ("folder", "growth")
    ]
    own = {option for file in programs for option in re.findall(r'"(--\w+)"', Path(file).read_text("utf-8"))}
    return options | {"--help"} | own


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder of weights in which the published names stand for a small random model, which finds no regions."""
    made = tmp_path_factory.mktemp("home")
    model = small_model(tmp_path_factory.mktemp("model"))
    config, params = corrclip_jax.load(model)
    # As many superpixels as the pages ask for by an option, so that all of their calls share a program.
    regions = {"source": "none", "slic": {"segments": 256}}
    config = corrclip_jax.with_fields(config, regions=regions, method={"max_regions": 256})
    model = save(model.parent / "without regions", params, config)
    (made / "converted").mkdir()
    for name in ("vit-b", "vit-l", "vit-h"):
        (made / "converted" / name).symlink_to(model)
    return made


@pytest.fixture
def desk(tmp_path, home, monkeypatch, shared_programs):
    """The working folder of a page: a photo, a folder of photos, a file of class names."""
    (tmp_path / "photos").mkdir()
    for index, path in enumerate(["photo.jpg", "photos/a.jpg", "photos/b.jpg"]):
        Image.fromarray(val_scene(index).image[:96, :120]).save(tmp_path / path)
    (tmp_path / "classes.txt").write_text("cat\ngrass\nsky; cloud\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CORRCLIP_HOME", str(home))
    monkeypatch.setattr(presets, "EMBEDDED_FOLDER", home / "converted" / "vit-b")
    monkeypatch.setattr(Image.Image, "show", lambda self: self.load())
    return tmp_path


# Guides compile several programs.
WITH_BLOCKS = [
    pytest.param(page, marks=[pytest.mark.slow] if page.startswith("docs/guides/") else [])
    for page in PAGES
    if blocks(page) and page not in NOT_RUN
]


@pytest.mark.parametrize("page", WITH_BLOCKS)
def test_blocks_run(page, desk):
    names: dict = {}
    for block in blocks(page):
        if block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, ROOT / page, "exec"), names)
        elif block.language == "sh":
            for words in commands(block):
                if shlex.join(words) in RUN:
                    result = corrclip(*words[1:])
                    assert result.exit_code == 0, (words, result.output)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_of_a_known_kind(page):
    if page not in NOT_RUN:
        assert {block.language for block in blocks(page)} <= {"python", "sh", "text"}


def test_exceptions_are_needed():
    assert set(NOT_RUN) <= {page for page in PAGES if blocks(page)}
    said = {shlex.join(words) for page in PAGES if page not in NOT_RUN for words in corrclip_commands(page)}
    assert said >= RUN


@pytest.mark.parametrize("page", [page for page in PAGES if page not in NOT_RUN])
def test_commands_have_the_options_that_they_are_given(page):
    for words in corrclip_commands(page):
        parse(words)
    for block in blocks(page):
        for words in commands(block) if block.language == "sh" else ():
            text = " ".join(words)
            assert words[0] == "corrclip" or text.startswith(tuple(OTHER_PROGRAMS)), text


def test_a_wrong_option_is_found():
    with pytest.raises(Exception, match="--bats"):
        parse(["corrclip", "export", "--out", "x", "--bats", "3"])


def spans(page):
    return re.findall(r"`([^`\n]+)`", without_blocks(read(page)))


@pytest.mark.parametrize("page", PROSE)
def test_options_in_the_text_exist(page):
    if page in NOT_RUN:
        return
    named = {
        option for span in spans(page) for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", span)
        if "pip" not in span and "jupytext" not in span and "XLA_FLAGS" not in span
    }  # fmt: skip
    assert named <= known_options()


@pytest.mark.parametrize("page", PROSE)
def test_modules_and_settings_in_the_text_exist(page):
    config = corrclip_jax.Config()
    for span in spans(page):
        if match := re.fullmatch(r"corrclip_jax((?:\.\w+)+)", span):
            thing = corrclip_jax
            for name in match[1].split(".")[1:]:
                if not hasattr(thing, name):
                    importlib.import_module(f"{thing.__name__}.{name}")
                thing = getattr(thing, name)
        if match := re.fullmatch(r"(?:config\.)?(regions|method|parts)\.([a-z_]+)", span):
            assert hasattr(getattr(config, match[1]), match[2]), span


@pytest.mark.parametrize("page", PROSE)
def test_files_in_the_text_exist(page):
    if page in NOT_RUN:
        return
    for span in spans(page):
        if (
            re.fullmatch(r"[\w.]+(/[\w.]+)*/([\w.]+\.(py|md|json|toml))?", span)
            and span.split("/")[0] in ROOMS
        ):
            assert (ROOT / span).exists() or (ROOT / "corrclip_jax" / span).exists(), span


PACKAGE = ROOT / "corrclip_jax"
ROOMS = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} | {"tests", "docs", "weights"}


def test_the_architecture_lists_the_rooms():
    listed = re.findall(r"^\| `(\w+)/` \|", read("ARCHITECTURE.md"), re.MULTILINE)
    assert sorted(listed) == sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def test_the_api_page_has_all_public_names():
    named = re.findall(
        r"^\.\. auto(?:function|class):: corrclip_jax\.(\w+)$", read("docs/api.md"), re.MULTILINE
    )
    assert sorted(named) == sorted(corrclip_jax.__all__)


def slugs(page):
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(read(page)), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PROSE)
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(read(page))):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            file = (ROOT / page).parent / path if path else ROOT / page
            assert file.is_file(), target
            assert not anchor or anchor in slugs(os.path.relpath(file, ROOT)), target


def test_the_introduction_is_short():
    assert len(read("README.md").splitlines()) <= 120


def test_no_sentence_stands_in_two_places():
    counts = Counter()
    for page in PROSE:
        paragraphs = re.split(r"\n\s*\n|^\s*[-|] ", without_blocks(read(page)), flags=re.MULTILINE)
        sentences = {one for text in paragraphs for one in re.split(r"(?<=[.:;])\s+", " ".join(text.split()))}
        counts.update(sentence for sentence in sentences if len(sentence.split()) >= 8)
    assert not [sentence for sentence, count in counts.items() if count > 1]


def test_the_published_scores_in_the_text_are_those_of_the_table():
    titles = {source: SOURCES[source].title for source in SOURCES} | {"files": "EntitySeg"}
    table = json.loads((PACKAGE / "datasets" / "benchmarks.json").read_text("utf-8"))
    wanted = []
    for row in table["published"]:
        words = [f"`{row['model']}`", titles[row["regions"]]]
        words += [f"{side} x {side} points"] if (side := row.get("points_per_side")) else []
        words += ["bank " + row["bank"] if row["bank"] else "no bank"] if "bank" in row else []
        wanted.append((", ".join(words), row["miou"]))
    names, found = [], []
    for line in read("docs/reproduce.md").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[:2] == ["model, regions", "score"]:
            names = cells[2:]
        elif cells[1:2] == ["published"]:
            found.append((cells[0], dict(zip(names, map(float, cells[2:]), strict=True))))
    assert found == wanted


def test_figures_are_drawn_from_the_rules_that_hold():
    spec = importlib.util.spec_from_file_location("figures", ROOT / "docs" / "figures.py")
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    for name, draw in figures.FIGURES.items():
        assert (figures.IMAGES / name).read_text("utf-8") == draw(), "run: python docs/figures.py"
