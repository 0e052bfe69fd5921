"""Evaluations that are killed, stopped or spread over processes give the matrix of an undisturbed one, exactly."""

import json
import signal
import time

import numpy as np
import pytest
from evaluation_process import SLOWLY, Bench, Forks, counted, free_port, kill_again_and_again
from tests_shared import with_devices

pytestmark = [pytest.mark.slow, pytest.mark.process]


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    forks = Forks(tmp_path_factory.mktemp("compiled"))
    yield forks
    forks.close()


@pytest.fixture(scope="module")
def bench(tmp_path_factory, forks):
    """Of what is interrupted and goes on, the networks are no part."""
    return Bench(tmp_path_factory.mktemp("bench"), networks=False, forks=forks)


@pytest.fixture(scope="module")
def undisturbed(bench):
    matrix = bench.finish("undisturbed")
    assert matrix.sum() == bench.count * 40 * 48
    return matrix


def two_processes(bench, out, *options, **variables):
    port = free_port()
    return [
        bench.start(
            out,
            "--distributed",
            *options,
            JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(number),
            **variables,
        )
        for number in range(2)
    ]


def stop(bench, out, number):
    """Stop an evaluation by a signal while it counts: it ends soon, with its counts written."""
    known = bench.names(out)
    process = bench.start(out, **SLOWLY)
    assert bench.wait_for(out, "part-*.npz", process, known), bench.log(out)
    process.send_signal(number)
    start = time.perf_counter()
    code = process.wait(60)
    assert time.perf_counter() - start < 10
    assert code == 128 + number
    kept = counted(bench, out)
    assert 0 < kept < bench.count
    assert f"stopped by {number.name}: {kept} images counted, the same command continues" in bench.log(out)


def test_a_run_stopped_and_killed_again_and_again_counts_every_picture_once(bench, undisturbed):
    for number in (signal.SIGTERM, signal.SIGINT):
        stop(bench, "disturbed", number)
    best = kill_again_and_again(bench, "disturbed", times=2, seed=0)
    np.testing.assert_array_equal(bench.finish("disturbed"), undisturbed)
    assert best > 0, "at least one was killed while it counted"


def test_a_signal_does_not_wait_for_a_program_to_compile(bench, forks):
    """A program takes half a minute here, on every machine; a run has ten seconds to end in."""
    arguments, slowly = bench.arguments("compiling"), {"SECONDS_A_PROGRAM": "30"}
    process = forks.start(arguments, bench.log_of("compiling"), networks=False, variables=slowly)
    while process.poll() is None and ", compiling" not in bench.log("compiling"):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    start = time.perf_counter()
    assert process.wait(60) == 128 + signal.SIGTERM, bench.log("compiling")
    assert time.perf_counter() - start < 10
    assert (bench.folder / "compiling" / "state" / "part-1-0.npz").is_file()


def test_two_processes_of_several_devices_give_the_matrix_of_one_device(bench, undisturbed):
    """Processes share the images, and the devices of a process its batches: two independent divisions."""
    both = two_processes(bench, "two", "--batch", 5, XLA_FLAGS=with_devices(5))
    assert [process.wait(300) for process in both] == [0, 0], bench.log("two")
    assert bench.log("two").count("divided over 5 devices") == 2
    np.testing.assert_array_equal(bench.matrix("two"), undisturbed)
    for out, processes, devices in (("two", 2, 10), ("undisturbed", 1, 1)):
        hardware = json.loads((bench.folder / out / "report.json").read_text("utf-8"))["hardware"]
        assert (hardware["processes"], hardware["devices"]) == (processes, devices)
    with np.load(bench.folder / "two" / "state" / "part-1-1.npz") as part:
        assert part["counted"].sum() == bench.count // 2


def test_two_killed_processes_are_gone_on_from_by_one(bench, undisturbed):
    both = two_processes(bench, "two-killed", **SLOWLY)
    for number, process in enumerate(both):
        bench.wait_for("two-killed", f"part-1-{number}.npz", process, set())
    for process in both:
        process.kill()
        process.wait()
    assert counted(bench, "two-killed") >= 2
    np.testing.assert_array_equal(bench.finish("two-killed"), undisturbed)
