"""Tables that `corrclip bench` prints."""

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from corrclip_jax.cli.shared.tables import add_numbers, plain_table


def tables(report: dict[str, Any]) -> Group:
    """The stages and the whole program, between a line on the settings and one on rate and memory."""
    settings, device = report["settings"], report["device"]
    size = f"{settings['batch']} x {settings['width']} x {settings['height']}"
    head = (
        f"{report['model']}, {size}, {settings['dtype']}, regions {settings['regions']}, {device['kind']} "
        f"({device['platform']}), {report['matmul_flops_per_second'] / 1e9:,.0f} GFLOP/s in matrix products"
    )
    table = plain_table("Stage")
    add_numbers(table, "Seconds", "Share", "GFLOP", "Of the rate", "Temporaries", "Compiled in")
    for row in report["stages"]:
        table.add_row(row["name"], *_cells(row, f"{row['share']:.1%}"))
    whole = report["program"]
    table.add_row("whole program", *_cells(whole, ""), style="bold")
    foot = f"{whole['images_per_second']:.3g} images a second"
    peaks = {name: held for name, held in report["peak_bytes"].items() if held is not None}
    foot += "".join(f", at most {_size(held)} held by the {name}" for name, held in peaks.items())
    return Group(Text(head), table, Text(foot))


def against_torch_table(report: dict[str, Any]) -> Group:
    """Times of torch and of this package, side by side."""
    settings = report["settings"]
    head = (
        f"{report['model']}, a window of {settings['window']}, {settings['dtype']}, {settings['threads']} threads, "
        f"medians of {settings['repeat']} turns"
    )
    if report["huge_pages"] is not None:
        head += f", huge pages: {report['huge_pages']}"
    table = plain_table("Part")
    add_numbers(table, "torch", "ours", "ours / torch", "of the rate")
    for name, part in report["against"].items():
        seconds, ratios = part["seconds"], part["ratios"]
        table.add_row(
            name,
            f"{seconds['torch']:.2f} s",
            f"{seconds['ours']:.2f} s",
            f"{part['ratio']:.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            f"{part['rate_share']:.0%}",
        )
    return Group(Text(head), table)


def compiled_table(report: dict[str, Any]) -> Group:
    """What a compiler says: cycles or launches by stage, between a line on the program and lines on memory."""
    settings, target = report["settings"], report["target"]
    head = (
        f"{report['model']}, {settings['batch']} x {settings['width']} x {settings['height']}, "
        f"{settings['dtype']}, regions {settings['regions']}, for {target['chips']} {target['kind']}, traced in "
        f"{report['trace_seconds']:.0f} s, compiled in {report['compile_seconds']:.0f} s"
    )
    table = _launches_table(report) if "launches" in report else _cycles_table(report)
    held = report["bytes"]
    parts = ", ".join(f"{_size(size)} {name}" for name, size in held.items())
    verdict = "fits" if report["fits"] else "does not fit"
    foot = f"{parts}: {verdict} the {_size(int(report['bytes_of_a_chip']))} that JAX takes of a chip"
    if report.get("kernels"):
        foot += f"\n{report['kernels']} custom kernels, of which the compiler estimates no cycles"
    if report.get("unestimated"):
        foot += f"\n{report['unestimated']} other operations without an estimate, which are not counted"
    if report["loops_counted_once"]:
        foot += f"\n{report['loops_counted_once']} loops whose length depends on the data are counted once"
    if target["chips"] > 1:
        found = ", ".join(f"{count} {name}" for name, count in report["collectives"].items()) or "none"
        foot += f"\ncollectives: {found}"
    return Group(Text(head), table, Text(foot))


def _cycles_table(report: dict[str, Any]) -> Table:
    """Estimated cycles of a TPU."""
    table = plain_table("Stage")
    add_numbers(table, "Million cycles", "Share")
    for row in report["stages"]:
        if row["share"] >= 0.01:
            table.add_row(row["name"], f"{row['cycles'] / 1e6:,.2f}", f"{row['share']:.1%}")
    table.add_row("all, of one chip", f"{report['cycles'] / 1e6:,.2f}", "", style="bold")
    if report["kernel_cycles_at_half_rate"]:
        cycles = report["kernel_cycles_at_half_rate"]
        table.add_row("more: custom kernels at half the peak rate", f"{cycles / 1e6:,.2f}", "")
    if report["floor_cycles"] is not None:
        table.add_row("its products at the peak rate", f"{report['floor_cycles'] / 1e6:,.2f}", "")
    return table


def _launches_table(report: dict[str, Any]) -> Table:
    """Kernels that a GPU starts in a call, and what its products take at least."""
    table = plain_table("Stage")
    add_numbers(table, "Kernels started", "of cuBLAS", "of cuDNN")
    for row in report["stages"]:
        table.add_row(row["name"], *(f"{row[kind]:,}" for kind in ("launches", "products", "attention")))
    found = report["launches"]
    table.add_row("all", *(f"{found[kind]:,}" for kind in ("all", "products", "attention")), style="bold")
    least = f"{1e3 * report['floor_seconds']:.2f} ms"
    table.add_row("its products at the peak rate of bfloat16", least, "", "")
    return table


def _cells(row: dict[str, Any], share: str) -> list[str]:
    return [
        f"{row['seconds']:.3f}",
        share,
        f"{row['flops'] / 1e9:,.1f}",
        f"{row['rate_share']:.0%}",
        _size(row["bytes"]["temporaries"]),
        f"{row['compile_seconds']:.1f} s",
    ]


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
