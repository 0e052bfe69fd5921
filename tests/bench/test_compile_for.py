"""Compilation for TPUs and GPUs without one: what is read in compiled programs, and what is refused."""

import pytest
from command_line import corrclip

from corrclip_jax.bench.compiled_program import read_program
from corrclip_jax.runtime import extras

COMPILED = """HloModule jit_program

%body (p: f32[8]) -> f32[8] {
  %d = f32[8] fusion(%p), {op_name="while/body/jit(apply)/DINO/blocks_0/attn/dot"}, {"estimated_cycles":"10"}
}

%branch (p: f32[8]) -> f32[8] {
  %c = f32[8] fusion(%p), {op_name="cond/jit(correlate)/add"}, {"estimated_cycles":"5"}
}

%limit (p: f32[8]) -> pred[] {
  %n = s32[] constant(3)
}

%until (p: f32[8]) -> pred[] {
  %t = pred[] get-tuple-element(%p), index=1
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %w = f32[8] while(%p), condition=%test, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %v = f32[8] while(%w), condition=%limit, body=%body
  %u = f32[8] while(%v), condition=%until, body=%branch
  %k = f32[8] conditional(%i, %w), branch_computations={%branch}
  %g = f32[16] all-gather(%k), metadata={op_name="jit(program)/gather"}, backend_config={"estimated_cycles":"7"}
  %x = f32[16] fusion(%g), metadata={op_name="x"}, backend_config={"estimated_cycles":"9223372036854775807"}
  %q = f32[16] custom-call(%x), custom_call_target="tpu_custom_call"
}
"""

FOR_GPUS = """HloModule jit_program

%fused (p: f32[8]) -> f32[8] {
  %a = f32[8]{0} add(%p, %p), metadata={op_name="jit(program)/jit(apply)/DINO/blocks_0/mlp/add"}
}

%command_buffer (p: f32[8]) -> f32[8] {
  %c = (bf16[8]{0}, s8[4]{0}) custom-call(%p, %p), custom_call_target="__cublas$lt$matmul", \
metadata={op_name="jit(program)/jit(apply)/DINO/blocks_0/mlp/dot_general"}
  %f = f32[8]{0} fusion(%c), calls=%fused, metadata={op_name="jit(program)/jit(apply)/DINO/blocks_0/mlp/add"}
}

%body (p: f32[8]) -> f32[8] {
  %s = f32[8]{0} call(%p), to_apply=%command_buffer
  %b = f32[8]{0} bitcast(%s)
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %w = f32[8] while(%p), condition=%test, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %k = (bf16[8]{0}, u8[0]{0}) custom-call(%w), custom_call_target="__cudnn$fmhaSoftmax", \
metadata={op_name="jit(program)/jit(apply)/DINO/blocks_0/attn/ffi_call"}
  %g = f32[16] all-gather-start(%k), metadata={op_name="jit(program)/gather"}
}
"""


def test_loops_count_as_often_as_they_run_and_collectives_and_kernels_are_found():
    found = read_program(COMPILED, "tpu")
    assert {row["name"]: row["cycles"] for row in found["stages"]} == {
        "DINO: attention": 60,
        "other": 7,
        "correlate": 10,
    }
    assert found["cycles"] == 77
    assert found["loops_counted_once"] == 1
    assert found["collectives"] == {"all-gather": 1}
    assert found["kernels"] == 1
    assert found["unestimated"] == 1


def test_kernels_of_gpus_count_as_often_as_they_are_started():
    found = read_program(FOR_GPUS, "cuda")
    assert found["stages"] == [
        {"name": "DINO: MLP", "launches": 6, "products": 3, "attention": 0},
        {"name": "DINO: attention", "launches": 1, "products": 0, "attention": 1},
    ]
    assert found["launches"] == {"all": 7, "products": 3, "attention": 1}
    assert found["collectives"] == {"all-gather": 1}
    assert found["loops_counted_once"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compile-for", "v3"], "the accelerator must be one of v5e, v6e, a100, h100, l4. Got 'v3'."),
        (["--compile-for", "v5e", "--chips", "3"], "the number of chips must be one of 1, 4, 8. Got 3."),
        (
            ["--compile-for", "v5e", "--chips", "4", "--batch", "6"],
            "4 chips cannot divide a batch of 6 images",
        ),
        (["--chips", "4"], "give --compile-for as well"),
        (["--compile-for", "v5e", "--against", "torch"], "give one of them"),
    ],
)
def test_what_cannot_be_compiled_is_refused(arguments, message):
    result = corrclip("bench", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize(("kind", "extra"), [("v5e", "tpu-aot"), ("h100", "gpu-aot")])
def test_a_missing_compiler_says_what_to_install(kind, extra, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert f"pip install 'corrclip-jax[{extra}]'" in " ".join(
        corrclip("bench", "--compile-for", kind).stderr.split()
    )
