"""Compiled programs (HLO) as text: estimated cycles of TPUs, kernel launches of GPUs, collectives, by stage."""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

Report = dict[str, Any]

_COLLECTIVE = re.compile(
    r" (all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
)
_NETWORK = re.compile(r"([A-Z]\w*)(?:\.(\w+))?")  # a Flax module and its method
_WRAPPER = re.compile(r"(?:vmap|jit|shard_map)\(|\)")
_LOOP = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_CALL = re.compile(r" call\(.*to_apply=%?([\w.\-]+)")
_LAUNCH = re.compile(r" (fusion|copy|sort|custom-call)\(")
_PARTS = (("attn", "attention"), ("mlp", "MLP"), ("norm", "norms"), ("ln_", "norms"))
_STEPS = ("correlate", "correct_by_region", "one_image")
_NO_ESTIMATE = 2**63 - 1  # cycles of an operation that the TPU's compiler does not know
_LIBRARIES = (("__cublas", "products"), ("__cudnn", "attention"))


def read_program(text: str, platform: str) -> Report:
    """What a compiled program says of itself.

    Args:
      text: of the compiled program, with the compiler's estimates.
      platform: "tpu" or "cuda".

    Returns:
      `stages`, a list of names with what each takes, the dearest first; `collectives`, how often each occurs in the
      text; `loops_counted_once`, how many loops have a length that only the data say. Of a TPU `cycles`, the sum of
      the estimates, `unestimated`, how many operations are marked as having none, and `kernels`, how many custom
      kernels there are; stages have cycles and shares. Of a GPU `launches`, the kernels that are started; stages
      have launches, and those among them of cuBLAS (`products`) and of cuDNN (`attention`).
    """
    read = _cycles if platform == "tpu" else _launches
    return {**read(text), "collectives": dict(Counter(_COLLECTIVE.findall(text)))}


def _cycles(text: str) -> Report:
    stages: Counter[str] = Counter()
    unestimated: set[str] = set()

    def add(line: str, times: int) -> None:
        if cycles := re.search(r'"estimated_cycles":"(\d+)"', line):
            if int(cycles[1]) == _NO_ESTIMATE:
                unestimated.add(line)
            else:
                stages[_stage(line)] += int(cycles[1]) * times

    unknown = _run(text, add)
    total = stages.total()
    rows = [
        {"name": name, "cycles": cycles, "share": cycles / total}
        for name, cycles in stages.most_common()
        if cycles
    ]
    kernels = text.count('custom_call_target="tpu_custom_call"')
    return {
        "cycles": total,
        "stages": rows,
        "unestimated": len(unestimated),
        "loops_counted_once": unknown,
        "kernels": kernels,
    }


def _launches(text: str) -> Report:
    stages: Counter[str] = Counter()
    libraries: dict[str, Counter[str]] = {name: Counter() for _, name in _LIBRARIES}

    def add(line: str, times: int) -> None:
        if _LAUNCH.search(line):
            stages[_stage(line)] += times
            for target, name in _LIBRARIES:
                if f'custom_call_target="{target}' in line:
                    libraries[name][_stage(line)] += times

    unknown = _run(text, add)
    rows = [
        {"name": name, "launches": count, **{key: found[name] for key, found in libraries.items()}}
        for name, count in stages.most_common()
    ]
    sums = {name: found.total() for name, found in libraries.items()}
    return {"launches": {"all": stages.total(), **sums}, "stages": rows, "loops_counted_once": unknown}


def _run(text: str, visit: Callable[[str, int], None]) -> int:
    """Visit every operation that runs, with how often it does; of a choice, all branches.

    Returns:
      How many loops have a length that only the data say; they count once.
    """
    unknown: set[str] = set()
    bodies, entry = _computations(text)

    def walk(name: str, times: int) -> None:
        for line in bodies.get(name, ()):
            if loop := _LOOP.search(line):
                condition, body = loop.groups()
                trips = _trips(line, bodies.get(condition, []))
                if trips is None:
                    unknown.add(body)
                walk(body, times * (trips or 1))
            elif " conditional(" in line:
                branches = line.partition("branch_computations=")[2].partition("}")[0]
                for branch in re.findall(r"%([\w.\-]+)", branches):
                    walk(branch, times)
            elif called := _CALL.search(line):
                walk(called[1], times)
            else:
                visit(line, times)

    walk(entry, 1)
    return len(unknown)


def _stage(line: str) -> str:
    operation = re.search(r'op_name="([^"]+)"', line)
    return stage_of(operation[1] if operation else "")


def stage_of(operation: str) -> str:
    """The stage that an operation belongs to, from its path: a network and its part, or a step of the method.

    >>> stage_of("jit(segment)/while/body/jit(apply)/DINO/blocks_3/attn/jit(attention)/dot_general")
    'DINO: attention'
    >>> stage_of("jit(segment)/while/body/closed_call/jit(correlate)/add")
    'correlate'
    """
    path = [_WRAPPER.sub("", part) for part in operation.split("/")]
    for place, part in enumerate(path, 1):
        if network := _NETWORK.fullmatch(part):
            name = " ".join(filter(None, network.groups())).replace("_", " ")
            inner = (title for key, title in _PARTS if any(key in one for one in path[place:]))
            return f"{name}: {next(inner, 'other')}"
    return next((part for part in reversed(path) if part in _STEPS), "other")


def _trips(line: str, condition: list[str]) -> int | None:
    """How often a loop runs, where the compiler or the loop's condition says it."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', line):
        return int(known[1])
    limits = re.findall(r"constant\((\d+)\)", "\n".join(condition))
    return int(limits[0]) if len(limits) == 1 else None


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of every computation of a program, and the name of the one that it begins with."""
    bodies: dict[str, list[str]] = {}
    name = entry = ""
    for line in text.splitlines():
        if start := re.match(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line):
            name = start[2]
            entry = name if start[1] else entry
            bodies[name] = []
        elif name:
            bodies[name].append(line)
    return bodies, entry
