"""What the planner reads from the compiler: programs as text, refusals, arithmetic of a jaxpr, lines through samples."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from dpojob_trainer.plan.extrapolate import Sample, extrapolate
from dpojob_trainer.plan.flops import Arithmetic, arithmetic
from dpojob_trainer.plan.hlo import array_bytes, work_of
from dpojob_trainer.plan.measured import Measured, TooLarge, refusal

PROGRAM = """HloModule jit_step, is_scheduled=true

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} fusion(%p), kind=kLoop, backend_config={"window_config":{"estimated_cycles":"100"}}
  %all-gather.1 = bf16[16,4]{1,0} all-gather(%x), replica_groups=[1,4]<=[4]
  ROOT %t = (s32[], f32[8]{0}) tuple(%p, %x)
}

%condition (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]{0}) parameter(0)
  %bound = s32[] constant(5)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %less = pred[] compare(%i, %bound), direction=LT
}

%called (p: f32[8]) -> f32[8] {
  ROOT %y = f32[8]{0} fusion(%p), kind=kLoop, backend_config={"window_config":{"estimated_cycles":"7"}}
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %loop = (s32[], f32[8]{0}) while(%a), condition=%condition, body=%body
  %call = f32[8]{0} call(%a), to_apply=%called
  %cps = (f32[8]{0}, f32[8]{0}) collective-permute-start(%a), source_target_pairs={{0,1}}
  %cpd = f32[8]{0} collective-permute-done(%cps)
  %ags = (f32[8]{0}, f32[16]{0}) all-gather-start(%a), dimensions={0}
  %agd = f32[16]{0} all-gather-done(%ags)
  ROOT %out = f32[8]{0} fusion(%call), kind=kLoop, backend_config={"window_config":{"estimated_cycles":"1000"}}
}
"""


def test_a_loop_counts_as_often_as_it_runs() -> None:
    work = work_of(PROGRAM)
    assert work.cycles == 1000 + 7 + 5 * 100
    assert work.blocking == {"all-gather": 5 * 16 * 4 * 2}
    assert work.unknown_loops == 0


def test_a_collective_with_start_and_end_runs_beside_others_and_its_operand_does_not_count() -> None:
    assert work_of(PROGRAM).hidden == {"collective-permute": 8 * 4, "all-gather": 16 * 4}


def test_a_loop_without_a_known_end_counts_once_and_is_told() -> None:
    work = work_of(PROGRAM.replace("constant(5)", "add(%p, %p)"))
    assert (work.cycles, work.unknown_loops) == (1000 + 7 + 100, 1)


def test_text_without_an_entry_is_refused() -> None:
    with pytest.raises(ValueError, match="no entry computation"):
        work_of("HloModule nothing")


def test_bytes_of_a_tuple_are_the_sum() -> None:
    assert array_bytes("(f32[2,3]{1,0}, bf16[4]{0}, s32[])") == 24 + 8 + 4


@pytest.mark.parametrize(
    ("message", "gib"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory in memory space hbm. Used 304.00G of 30.75G hbm. "
            "Exceeded hbm capacity by 273.25G.",
            304.0,
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (139.10G) exceeds "
            "available HBM (30.75G).",
            139.1,
        ),
    ],
)
def test_a_refusal_says_how_much_was_needed(message: str, gib: float) -> None:
    found = refusal(message)
    assert found is not None
    assert found.needed == pytest.approx(gib * 2**30)


def test_a_refusal_in_unknown_words_still_is_one() -> None:
    assert refusal("RESOURCE_EXHAUSTED: too much") == TooLarge(None, "RESOURCE_EXHAUSTED: too much")


def test_other_failures_of_the_compiler_are_no_refusal() -> None:
    assert refusal("INTERNAL: RET_CHECK failure") is None


def equation(name: str, out: tuple[int, ...], left: tuple[int, ...] = (), **params: Any) -> SimpleNamespace:
    def array(shape: tuple[int, ...]) -> SimpleNamespace:
        return SimpleNamespace(aval=SimpleNamespace(shape=shape))

    return SimpleNamespace(
        primitive=SimpleNamespace(name=name), params=params, invars=[array(left)], outvars=[array(out)]
    )


def jaxpr(*equations: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(eqns=list(equations))


PRODUCT = equation("dot_general", (4, 8), (4, 16), dimension_numbers=(((1,), (0,)), ((), ())))
FLOPS = 2 * 4 * 8 * 16


def test_a_product_counts_multiplications_and_additions() -> None:
    assert arithmetic(jaxpr(PRODUCT)) == Arithmetic(products=FLOPS)


def test_loops_and_devices_repeat_what_is_in_them() -> None:
    mesh = SimpleNamespace(shape={"fsdp": 2, "sp": 4})
    shared = equation("shard_map", (), jaxpr=jaxpr(PRODUCT), mesh=mesh)
    assert arithmetic(jaxpr(equation("scan", (), length=3, jaxpr=jaxpr(shared)))).products == 3 * 8 * FLOPS


def test_a_kernel_without_an_estimate_counts_all_blocks_of_its_grid() -> None:
    kernel = equation("pallas_call", (), grid_mapping=SimpleNamespace(grid=(2, 5)), jaxpr=jaxpr(PRODUCT))
    assert arithmetic(jaxpr(kernel)) == Arithmetic(kernels=10 * FLOPS)
    stated = equation("pallas_call", (), cost_estimate=SimpleNamespace(flops=77))
    assert arithmetic(jaxpr(stated)).kernels == 77


@dataclass(frozen=True)
class Pair:
    """Two quantities."""

    fixed: float
    growing: float


def test_every_quantity_grows_on_its_own_line() -> None:
    assert extrapolate(Sample(2, Pair(7.0, 12.0)), Sample(4, Pair(7.0, 22.0)), 40) == Pair(7.0, 202.0)


def test_a_quantity_never_is_negative() -> None:
    assert extrapolate(Sample(2, Pair(10.0, 0.0)), Sample(4, Pair(5.0, 0.0)), 40).fixed == 0.0


def test_one_number_of_layers_makes_no_line() -> None:
    with pytest.raises(ValueError, match="both samples have 2 layers"):
        extrapolate(Sample(2, Pair(1.0, 1.0)), Sample(2, Pair(1.0, 1.0)), 40)


def test_the_total_leaves_out_what_takes_the_place_of_an_argument() -> None:
    assert Measured(arguments=10, outputs=8, aliased=7, temporaries=5, code=1).total == 17
