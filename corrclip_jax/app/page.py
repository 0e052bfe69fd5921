"""Web page in Gradio: the form, the queue of one, and the server, which serves nothing but its own files."""

import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # which Gradio reads while it is imported

import gradio as gr
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware

from corrclip_jax.app.answers import MAX_MEGAPIXELS, MAX_PHOTOS, Model, Question, Say, answer
from corrclip_jax.app.examples import write_examples
from corrclip_jax.app.models import LoadedModels, choices
from corrclip_jax.hub.embedded import EMBEDDED_MODELS

MAX_MEGABYTES = 25
MOST_WAITING = 50
_KEPT_SECONDS = 3600  # for files that users have uploaded or may download
_OTHER_STEPS = 3  # of an answer, beside the photos: loading the model, writing, the end
_OWN_SOURCES = "'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
_ABOUT_EMBEDDED = (
    f"The embedded model ({', '.join(EMBEDDED_MODELS)}) was trained on generated scenes and knows no photographs: "
    "try it on the examples. For photos, "
    "convert a published model first (`corrclip prepare vit-b`); it can be chosen here afterwards."
)


class OwnSourcesOnly:
    """Middleware that forbids the browser to load anything for the page from elsewhere."""

    def __init__(self, app: Any):
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Add the header to a response."""

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = f"default-src {_OWN_SOURCES}"
            await send(message)

        await self._app(scope, receive, with_policy)


@contextmanager
def serve(
    models: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    model_for: Callable[[Question, Say], Model] | None = None,
) -> Iterator[str]:
    """Serve the page while the block runs.

    Args:
      models: names of the models that can be chosen, the first by default.
      host: the address to listen on.
      port: the port; None for the first free one from 7860 on.
      model_for: what labels; by default the models, which are loaded at their first use.

    Yields:
      The address of the page.

    Raises:
      OSError: if the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="corrclip-app-") as folder:
        scenes = write_examples(Path(folder))
        loaded = LoadedModels()
        page = build(models, model_for or loaded, Path(folder), scenes, lambda: loaded.preparing)
        page.queue(max_size=MOST_WAITING)
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                prevent_thread_lock=True,
                share=False,
                quiet=True,
                max_file_size=f"{MAX_MEGABYTES}mb",
                footer_links=[],
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                enable_monitoring=False,
                theme=_theme(),
                css=_asset("page.css"),
                app_kwargs={"middleware": [Middleware(OwnSourcesOnly)]},
            )
            if model_for is None and (models[0] in choices() or Path(models[0]).is_dir()):  # no download
                threading.Thread(target=_prepare, args=(loaded, models[0], *scenes[0]), daemon=True).start()
            yield address
        finally:
            page.close(verbose=False)


def build(
    models: Sequence[str],
    model_for: Callable[[Question, Say], Model],
    folder: Path,
    scenes: Sequence[tuple[Path, str]],
    preparing: Callable[[], str | None],
) -> gr.Blocks:
    """The page.

    Args:
      models: names of the models that can be chosen, the first by default.
      model_for: what labels.
      folder: for files on their way to the browser.
      scenes: examples, photos with their class names.
      preparing: gives the name of the model that is being compiled, if there is one.
    """

    def label(
        photos: list[str],
        classes: str,
        model: str,
        threshold: float | int,  # JSON's 0 is an int
        points: int,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio looks for it among the defaults)
    ) -> tuple[dict[str, Any], list[str]]:
        steps = itertools.count(1)
        # Gradio has copied the files of the answer before: the queue is one by one.
        out = folder / "answer"
        shutil.rmtree(out, ignore_errors=True)
        question = Question([Path(photo) for photo in photos], classes, model, float(threshold), int(points))

        def say(step: str) -> None:
            progress(min(0.95, next(steps) / (len(photos) + _OTHER_STEPS)), desc=step)

        try:
            found = answer(question, model_for, out, say)
        except (ValueError, OSError, ImportError) as error:
            raise gr.Error(str(error), duration=None, print_exception=False) from error
        for message in found.failed:
            gr.Warning(message, duration=None, title="Left out")
        return {"photos": found.views}, [str(path) for path in found.files]

    with gr.Blocks(
        title="corrclip", analytics_enabled=False, delete_cache=(_KEPT_SECONDS, _KEPT_SECONDS)
    ) as page:
        gr.Markdown(
            "# corrclip\nLabel every pixel of photos with one of the classes you name: up to "
            f"{MAX_PHOTOS} photos at once, each up to {MAX_MEGABYTES} MB and {MAX_MEGAPIXELS} megapixels. "
            "They stay on the machine that runs this page."
        )
        waiting = gr.Markdown(lambda: _waiting(preparing()), elem_id="waiting")
        clock = gr.Timer(2)
        clock.tick(
            lambda: (_waiting(name := preparing()), gr.Timer(active=name is not None)),
            None,
            [waiting, clock],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                photo = gr.Gallery(
                    label="Photos",
                    type="filepath",
                    sources=["upload", "webcam", "clipboard"],
                    buttons=[],
                    columns=3,
                    fit_columns=False,
                    object_fit="contain",
                    height=260,
                    elem_id="photo",
                )
                photo.preprocess = _paths_of  # what is no photo, or too large, is said by `answer`
                examples = gr.Dataset(
                    components=[gr.Image(render=False, type="filepath")],
                    samples=[[str(path)] for path, _ in scenes],
                    label="Examples: generated scenes",
                    type="index",
                    elem_id="examples",
                )
                classes = gr.Textbox(
                    label="Classes",
                    info="A comma separates classes, a semicolon synonyms. Name all that the photo shows.",
                    placeholder="cat, grass, sky; cloud",
                    lines=2,
                    max_length=50_000,
                    elem_id="classes",
                )
                run = gr.Button("Label the photos", variant="primary", elem_id="run")
                model = gr.Dropdown(list(models), value=models[0], label="Model", elem_id="model")
                about = gr.Markdown(_ABOUT_EMBEDDED, visible=models[0] in EMBEDDED_MODELS, elem_id="embedded")
                with gr.Accordion("More settings", open=False):
                    threshold = gr.Slider(
                        0,
                        0.95,
                        0,
                        step=0.05,
                        label="Background threshold",
                        info="Less probable pixels get the first class. Another value compiles again.",
                    )
                    points = gr.Slider(
                        4,
                        32,
                        8,
                        step=4,
                        label="Points per side of SAM's grid",
                        info="More find smaller regions and take longer. Another value compiles again.",
                    )
            with gr.Column(scale=3, min_width=300):
                view = gr.HTML(
                    html_template=_asset("view.html"),
                    css_template=_asset("view.css"),
                    js_on_load=_asset("view.js"),
                    elem_id="view",
                    min_height=200,
                )
                files = gr.Files(
                    label="Downloads: PNG, COCO, Label Studio", interactive=False, elem_id="files"
                )
        gr.on(
            [run.click, classes.submit],
            label,
            [photo, classes, model, threshold, points],
            [view, files],
            concurrency_limit=1,
            show_progress_on=view,
            api_visibility="private",
        )
        examples.click(
            lambda index: ([str(scenes[index][0])], scenes[index][1]),
            examples,
            [photo, classes],
            queue=False,
            api_visibility="private",
        )
        model.change(
            lambda name: gr.update(visible=name in EMBEDDED_MODELS),
            model,
            about,
            queue=False,
            api_visibility="private",
        )
    return page


def _paths_of(payload: Any) -> list[str]:
    """The files of uploads, which Gradio would open."""
    media = [] if payload is None else payload.root
    return [(one.image if hasattr(one, "image") else one.video).path for one in media]


def _prepare(models: LoadedModels, name: str, photo: Path, classes: str) -> None:
    """Load and compile a model; if that fails, whoever asks for it gets the error."""
    with suppress(OSError, ValueError, ImportError):
        models.prepare(name, photo, classes)


def _waiting(name: str | None) -> str:
    """What the page says while a model is compiled."""
    return f"**{name} is being compiled**, once after a start; the first answer waits for it." if name else ""


def _theme() -> gr.themes.Base:
    """Fonts of the system, and small print that can be read."""
    theme = gr.themes.Default(primary_hue="blue", font=("system-ui", "sans-serif"), font_mono=("monospace",))
    names = ("body_text_color_subdued", "block_info_text_color")
    return theme.set(
        **dict.fromkeys(names, "*neutral_600"), **{f"{name}_dark": "*neutral_300" for name in names}
    )


def _asset(name: str) -> str:
    return (package_files("corrclip_jax.app") / name).read_text("utf-8")
