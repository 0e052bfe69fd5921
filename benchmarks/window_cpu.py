"""Time the window step on a CPU: ours, compiled, beside the torch reference with eager attention.

    python benchmarks/window_cpu.py [--threads 2] [--repeat 5] [--json FILE]

One window of 336 x 336, ViT-B/16 and DINO B/8, float32, the same random weights on both sides. The two take turns
in one process, so that both see the same machine; medians count. Of the torch side DINO is timed alone as well.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

SIDE = 336
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Time both sides in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="threads of both programs (default 2)")
    parser.add_argument("--repeat", type=int, default=5, help="turns of each (default 5)")
    parser.add_argument("--json", type=Path, help="write all times here as well")
    arguments = parser.parse_args()
    limit_threads(arguments.threads)

    ours, torch_dino, torch_window = programs(arguments.threads)
    times: dict[str, list[float]] = {"ours": [], "torch": [], "torch_dino": []}
    for _ in range(arguments.repeat):
        times["ours"].append(seconds(ours))
        times["torch"].append(seconds(torch_window))
        times["torch_dino"].append(seconds(torch_dino))
    report = summary(times) | {"threads": arguments.threads}
    print_table(report)
    if arguments.json:
        arguments.json.write_text(json.dumps(report | {"times": times}, indent=2) + "\n")


def limit_threads(threads: int) -> None:
    """Keep this process to so many cores: XLA makes a thread for each core that it may use."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < threads:
        raise SystemExit(f"--threads {threads}, but this process may use {len(cores)} cores.")
    os.sched_setaffinity(0, cores[:threads])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


def programs(threads: int) -> tuple[Callable, Callable, Callable]:
    """Our window step, torch's DINO and torch's window step, on the same weights and the same window."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    # Imported late: both libraries look at the number of cores when they start.
    import jax
    import jax.numpy as jnp
    import numpy as np
    import reference
    import torch

    from corrclip_jax.branches import window_step
    from corrclip_jax.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, Config, DINOConfig
    from corrclip_jax.conversion import convert_state_dict

    torch.set_num_threads(threads)
    clip = reference.random_clip(layers=12, width=768, heads=12, patch_size=16, embed_dim=512)
    dino = reference.random_dino(layers=12, width=768, heads=12, patch_size=8)
    config = Config(
        clip=CLIPConfig(
            vision=CLIPVisionConfig(),
            # The window step reads no text: the reference's small text tower does for both.
            text=CLIPTextConfig(vocab_size=64, width=32, heads=4, layers=2),
        ),
        dino=DINOConfig(),
        sam2=None,
    )
    params = {
        "clip": convert_state_dict("clip", clip.state_dict(), config.clip),
        "dino": convert_state_dict("dino", dino.state_dict(), config.dino),
    }
    params = jax.tree.map(jnp.asarray, params)

    pixels = np.random.default_rng(0).standard_normal((SIDE, SIDE, 3)).astype(np.float32)
    regions = quarters()
    step = jax.jit(partial(window_step, config), static_argnums=3)

    def ours():
        out = step(params, jnp.asarray(pixels[None]), jnp.asarray(regions[None], jnp.int32), 10)
        return np.asarray(out.features[0])

    window, region_tensor = torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(regions)

    @torch.inference_mode()
    def torch_dino():
        return reference.dino_features(dino, window)

    @torch.inference_mode()
    def torch_window():
        features = reference.window_features(clip, dino, window, region_tensor)["features"]
        return features.flatten(0, 1).numpy()

    # Also compiles ours and warms torch up.
    wanted = torch_window()
    error = np.abs(ours() - wanted).max() / np.abs(wanted).max()
    if error > 1e-2:  # similarities that tie with their mean may move a few cells
        raise SystemExit(f"The two programs disagree: features differ by {error:.1e} of their magnitude.")
    return ours, torch_dino, torch_window


def quarters():
    """Nine regions, the middle one not segmented."""
    import numpy as np

    thirds = np.arange(SIDE) * 3 // SIDE
    regions = 3 * thirds[:, None] + thirds[None] + 1
    return np.where(regions == 5, 0, regions)


def seconds(function: Callable) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def summary(times: dict[str, list[float]]) -> dict[str, float]:
    """Medians; the ratio is the median of the turns' own ratios, which a busy moment shifts least."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    medians["torch_rest"] = medians["torch"] - medians["torch_dino"]
    ratios = [a / b for a, b in zip(times["ours"], times["torch"], strict=True)]
    return medians | {"ratio": statistics.median(ratios)}


def print_table(report: dict[str, float]) -> None:
    """The medians, DINO's share of torch's time apart."""
    print(f"One window of {SIDE}, ViT-B/16 + DINO B/8, float32, {report['threads']} threads, medians:")
    print(f"  torch, eager attention  {report['torch']:6.2f} s")
    print(f"    DINO                  {report['torch_dino']:6.2f} s")
    print(f"    the rest              {report['torch_rest']:6.2f} s")
    print(f"  ours, compiled          {report['ours']:6.2f} s")
    print(f"  ours / torch            {report['ratio']:6.2f}")


if __name__ == "__main__":
    main()
