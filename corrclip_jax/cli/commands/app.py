"""`corrclip app`: a web page on this machine that labels photos."""

from threading import Event
from typing import Annotated

import typer

from corrclip_jax.cli.shared.console import messages, result_as_json, results
from corrclip_jax.cli.shared.interrupts import run_interruptibly
from corrclip_jax.cli.shared.options import model_option
from corrclip_jax.runtime.compilation_cache import keep_compiled_programs

HELP = "\n\n".join(
    [
        "Open a web page that labels photos.",
        "Drop photos on it, type class names, and look at the results; label maps, COCO and Label Studio files can "
        "be downloaded. It offers the models that are converted on this machine, and tiny with generated scenes. "
        "It needs no network, listens on this machine only unless --host says otherwise, and runs until Ctrl-C. "
        "Needs the extra app.",
        "[bold]Examples[/]",
        "  corrclip app",
        "  corrclip app --model vit-b --port 8080",
    ]
)


def app(
    model: Annotated[
        str | None,
        model_option(
            "The model that is chosen at first; a published one is downloaded at its first use. "
            "[dim]\\[default: the first that is here, tiny if there is no other][/]",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            help="Port. [dim]\\[default: the first free one from 7860 on][/]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Serve the page. Users see `HELP`."""
    from corrclip_jax.runtime.extras import require

    require("gradio", "web pages", "app")
    with messages().status("Starting"):
        from corrclip_jax.app.port import check_port

        if port is not None:
            check_port(host, port)

        from corrclip_jax.app.models import choices

        keep_compiled_programs()
        names = choices(model)

        from corrclip_jax.app.page import serve

    with serve(names, host=host, port=port) as address:

        def wait(stop: Event) -> None:
            results().print(f"The page is at {address} (Ctrl-C ends it)", soft_wrap=True)
            result_as_json({"address": address, "models": names})
            stop.wait()

        # A model may be compiling when a signal comes: Python would crash if it ended in the middle of that.
        run_interruptibly(wait)
