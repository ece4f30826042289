"""Programs as XLA prints them: how often what is run, and what it computes."""

import jax
import jax.numpy as jnp
import pytest

from slm_jax.aot import hlo, memory, work

PROGRAM = """
HloModule step, is_scheduled=true

%fused (p.0: bf16[4,8,16], p.1: s32[]) -> bf16[8,16] {
  %p.0 = bf16[4,8,16]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p.1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  ROOT %slice = bf16[1,8,16]{2,1,0} dynamic-slice(%p.0, %p.1, %zero, %zero), dynamic_slice_sizes={1,8,16}
}

%body (arg: (s32[], bf16[4,8,16], f32[2,8])) -> (s32[], bf16[4,8,16], f32[2,8]) {
  %arg = (s32[]{:T(128)}, bf16[4,8,16]{2,1,0}, f32[2,8]{1,0:T(2,128)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%arg), index=0
  %w = bf16[4,8,16]{2,1,0} get-tuple-element(%arg), index=1
  %x = f32[2,8]{1,0:T(2,128)S(1)} get-tuple-element(%arg), index=2
  %layer = bf16[8,16]{1,0} fusion(%w, %i), kind=kLoop, calls=%fused
  %y = f32[2,16]{1,0:T(2,128)S(1)} convolution(%x, %layer), dim_labels=bf_io->bf
  ROOT %out = (s32[], bf16[4,8,16], f32[2,8]) tuple(%i, %w, %x)
}

%condition (arg.1: (s32[], bf16[4,8,16], f32[2,8])) -> pred[] {
  %arg.1 = (s32[], bf16[4,8,16]{2,1,0}, f32[2,8]{1,0}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  %bound = s32[]{:T(128)} constant(4)
  ROOT %less = pred[]{:T(512)} compare(%i.1, %bound), direction=LT
}

ENTRY %main (a: (s32[], bf16[4,8,16], f32[2,8])) -> (s32[], bf16[4,8,16], f32[2,8]) {
  %a = (s32[], bf16[4,8,16]{2,1,0}, f32[2,8]{1,0}) parameter(0)
  ROOT %loop = (s32[], bf16[4,8,16]{2,1,0}, f32[2,8]{1,0}) while(%a), condition=%condition, body=%body
}
"""


def test_loops_are_multiplied_by_the_bound_of_their_counter():
    program = hlo.parse(PROGRAM)
    assert [(run.computation.name, run.times) for run in program.runs()] == [("main", 1), ("body", 4)]
    assert work.operations(program) == work.Operations(4 * 2 * 2 * 8 * 16, 4 * 2 * 2 * 8 * 16)


@pytest.mark.parametrize(
    ("started", "result", "moved"),
    [
        ("slice-start", "(bf16[4,8,16]{2,1,0}, bf16[1,8,16]{2,1,0:T(8,128)S(1)}, u32[]{:S(2)})", 1),  # to fast memory
        ("slice-start", "(bf16[4,8,16]{2,1,0}, bf16[1,8,16]{2,1,0:T(8,128)}, u32[]{:S(2)})", 2),
        ("copy-start", "(bf16[4,8,16]{2,1,0:T(8,128)S(1)}, bf16[4,8,16]{2,1,0}, u32[]{:S(2)})", 4),  # to fast memory
        ("copy-start", "(bf16[4,8,16]{2,1,0:T(8,128)}, bf16[4,8,16]{2,1,0}, u32[]{:S(2)})", 8),
    ],
)
def test_what_is_moved_beside_other_work_counts_once(started: str, result: str, moved: int):
    """In layers of 8 x 16: what is read of HBM and what is written to it."""
    attributes = ", slice={[0:1], [0:8], [0:16]}" if started == "slice-start" else ""
    program = f"""HloModule m, is_scheduled=true

ENTRY %main (w: bf16[4,8,16]) -> bf16[4,8,16] {{
  %w = bf16[4,8,16]{{2,1,0}} parameter(0)
  %started = {result} {started}(%w){attributes}
  ROOT %done = bf16[4,8,16]{{2,1,0}} {started.replace("start", "done")}(%started)
}}
"""
    assert work.memory_traffic(hlo.parse(program)) == moved * 2 * 8 * 16


def test_memory_traffic_is_what_lies_in_hbm_and_of_stacks_only_slices():
    """The fusion reads and writes a layer's slice and reads its number, the product reads the slice again; x and y are
    in fast memory.
    """
    layer, number = 2 * 8 * 16, 4
    assert work.memory_traffic(hlo.parse(PROGRAM)) == 4 * (3 * layer + number)


def test_a_known_trip_count_wins():
    known = PROGRAM.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"3"}}')
    assert [run.times for run in hlo.parse(known).runs()] == [1, 3]


def test_a_loop_without_bound_is_an_error():
    program = hlo.parse(PROGRAM.replace("constant(4)", "get-tuple-element(%arg.1), index=0"))
    with pytest.raises(ValueError, match="loop loop has no constant bound"):
        program.runs()


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="not an HLO module"):
        hlo.parse("ceci n'est pas une pipe")


def test_shapes_have_types_sizes_and_a_place():
    assert hlo.parse_shapes("(f32[2,3]{1,0:T(8,128)S(1)}, pred[], u32[]{:S(2)})") == (
        hlo.Shape("f32", (2, 3), fast=True),
        hlo.Shape("pred", ()),
        hlo.Shape("u32", (), fast=True),
    )
    assert [hlo.Shape(name, (3,)).bytes for name in ("bf16", "f32", "pred", "s4", "f8e4m3fn")] == [6, 12, 3, 2, 3]


@pytest.mark.parametrize(
    ("window", "size", "kernel", "output", "expected"),
    [
        ("", 7, 1, 7, 7),
        ("{size=3 stride=2 pad=1_1}", 7, 3, 4, 10),  # the first and the last position lie half outside
        ("{size=4 pad=3_3 rhs_reversal=1}", 4, 4, 7, 16),  # a batched product
        ("{size=2 pad=1_1 lhs_dilate=2}", 3, 2, 6, 6),
    ],
)
def test_windows_count_where_they_meet_the_input(window, size, kernel, output, expected):
    assert work.Window(window).positions(0, size, kernel, output) == expected


def test_convolutions_of_a_real_program_are_counted_as_xla_does():
    def convolve(x, kernel):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=dimensions)

    x, kernel = jnp.zeros((2, 9, 8, 3)), jnp.zeros((3, 3, 3, 5))
    compiled = jax.jit(convolve).lower(x, kernel).compile()
    assert work.operations(hlo.parse(compiled.as_text())).flops == compiled.cost_analysis()["flops"]


def test_a_scanned_gradient_is_counted_with_its_loops():
    def loss(w, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0].sum()

    shapes = jax.ShapeDtypeStruct((6, 64, 64), jnp.float32), jax.ShapeDtypeStruct((32, 64), jnp.float32)
    program = hlo.parse(jax.jit(jax.grad(loss)).lower(*shapes).compile().as_text())
    products = work.operations(program).flops / (2 * 32 * 64 * 64)
    assert 17 <= products <= 18  # 6 forward, 12 backward, of which the first layer's input needs none
    kept = memory.activations(program)
    assert kept >= 6 * 32 * 64 * 4
