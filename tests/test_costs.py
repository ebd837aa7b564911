"""What a program costs, read from its text: against counts by hand."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echox_jax import chips, collectives, costs, hlo

V5E = chips.find('TPU v5e')


def program(function, *arguments):
  return hlo.read(jax.jit(function).lower(*arguments).compile().as_text())


def flops(read):
  return sum(cost.flops for cost in costs.instructions(read))


def test_a_product_in_a_loop_counts_with_its_turns():
  x, w = jnp.ones((8, 64)), jnp.ones((5, 64, 64))
  read = program(lambda x, w: jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0], x, w)
  assert flops(read) == 5 * 2 * 8 * 64 * 64 and not read.unknown and not read.by_budget


def test_a_loop_that_may_end_early_counts_with_its_budget():
  def decode(w, x):
    def goes_on(state):
      return (state[0] < 13) & ~jnp.all(state[1] > 1e6)

    return jax.lax.while_loop(goes_on, lambda state: (state[0] + 1, state[1] @ w), (jnp.int32(0), x))

  read = program(decode, jnp.ones((32, 32)), jnp.ones((4, 32)))
  assert flops(read) == 13 * 2 * 4 * 32 * 32 and len(read.by_budget) == 1 and not read.unknown


def test_a_loop_whose_turns_the_data_tell_is_reported():
  def run(n, w, x):
    return jax.lax.while_loop(lambda state: state[0] < n, lambda state: (state[0] + 1, state[1] @ w), (jnp.int32(0), x))

  read = program(run, jnp.int32(3), jnp.ones((32, 32)), jnp.ones((4, 32)))
  assert flops(read) == 2 * 4 * 32 * 32 and len(read.unknown) == 1


TPU = """HloModule jit_step, is_scheduled=true

%fused_slice (w: bf16[32,64,64], i: s32[]) -> bf16[64,64] {
  %w = bf16[32,64,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  %zero = s32[] constant(0)
  %part = bf16[1,64,64]{2,1,0} dynamic-slice(%w, %i, %zero, %zero), dynamic_slice_sizes={1,64,64}
  ROOT %flat = bf16[64,64]{1,0} bitcast(%part)
}

%fused_update (cache: bf16[32,64,64], new: bf16[1,64,64], i: s32[]) -> bf16[32,64,64] {
  %cache = bf16[32,64,64]{2,1,0} parameter(0)
  %new = bf16[1,64,64]{2,1,0} parameter(1)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %out = bf16[32,64,64]{2,1,0} dynamic-update-slice(%cache, %new, %i, %zero, %zero)
}

%less (i: s32[], limit: s32[], ended: pred[]) -> pred[] {
  %i = s32[] parameter(0)
  %limit = s32[] parameter(1)
  %ended = pred[] parameter(2)
  %compared = pred[] compare(%i, %limit), direction=LT
  ROOT %both = pred[] and(%compared, %ended)
}

%condition (state: (s32[], pred[])) -> pred[] {
  %state = (s32[], pred[]) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %ended = pred[] get-tuple-element(%state), index=1
  %limit = s32[]{:T(128)} constant(513)
  ROOT %more = pred[] fusion(%i, %limit, %ended), kind=kLoop, calls=%less
}

%body (state: (s32[], pred[])) -> (s32[], pred[]) {
  %state = (s32[], pred[]) parameter(0)
  %w = bf16[32,64,64]{2,1,0:T(8,128)(2,1)} get-tuple-element(%state), index=0
  %new = bf16[1,64,64]{2,1,0:T(8,128)(2,1)S(1)} get-tuple-element(%state), index=1
  %i = s32[] get-tuple-element(%state), index=0
  %slice = bf16[64,64]{1,0:T(8,128)(2,1)S(1)} fusion(%w, %i), kind=kLoop, calls=%fused_slice
  %written = bf16[32,64,64]{2,1,0:T(8,128)(2,1)} fusion(%w, %new, %i), kind=kLoop, calls=%fused_update
  %product = f32[16,64]{1,0:T(8,128)} convolution(%slice, %slice), dim_labels=bf_io->bf
  ROOT %out = (s32[], pred[]) tuple(%i, %product)
}

ENTRY %main (p: (s32[], pred[])) -> (s32[], pred[]) {
  %p = (s32[], pred[]) parameter(0)
  %kernel = bf16[8,8] custom-call(%p), custom_call_target="tpu_custom_call", backend_config={"cost_estimate":{"flops":"1000"}}
  ROOT %loop = (s32[], pred[]) while(%p), condition=%condition, body=%body
}
"""


def test_forms_that_only_programs_for_tpus_have():
  read = hlo.read(TPU)
  assert read.times['body'] == 513 and len(read.by_budget) == 1
  assert flops(read) == 1000 + 513 * 2 * 64 * 16 * 64
  moved = {cost.what.split()[-1]: cost.bytes / 513 for cost in costs.instructions(read) if cost.what.startswith('513')}
  slice_bytes = 2 * 64 * 64
  scalars = 16
  assert moved['slice'] == pytest.approx(slice_bytes, abs=scalars)  # read from memory; where it goes to is on the chip
  assert moved['written'] == pytest.approx(2 * slice_bytes, abs=scalars)  # the part is written in place; what it is made of is on the chip
  assert moved['product'] == 4 * 16 * 64


UNROLLED = """HloModule jit_step

%condition (state: (s32[], f32[8])) -> pred[] {
  %state = (s32[], f32[8]) parameter(0)
  %i = u32[] get-tuple-element(%state), index=0
  %limit = u32[] constant(7)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %state = (s32[], f32[8]) parameter(0)
  %i = u32[] get-tuple-element(%state), index=0
  %x = f32[8] get-tuple-element(%state), index=1
  %two = u32[] constant(2)
  %next = u32[] add(%i, %two)
  ROOT %out = (s32[], f32[8]) tuple(%next, /*index=1*/%x)
}

ENTRY %main (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]) parameter(0)
  ROOT %loop = (s32[], f32[8]) while(%p), condition=%condition, body=%body
}
"""


def test_a_loop_that_the_compiler_unrolled_takes_fewer_turns():
  assert hlo.read(UNROLLED).times['body'] == 4


def devices(*shape):
  return [types.SimpleNamespace(coords=coords, slice_index=0) for coords in np.ndindex(*shape)]


@pytest.mark.parametrize('kind,shape,links', [
    ('all-gather', (4, 4), 2), ('all-gather', (16, 16), 4), ('all-gather', (16, 1), 2), ('reduce-scatter', (8, 8), 2), ('all-reduce', (4, 4), 1)])
def test_gathers_take_all_links_of_the_axes_that_a_group_spans(kind, shape, links):
  found = collectives.Collective(kind, 10**9, 1, None, '')
  n = shape[0] * shape[1]
  seconds = collectives.seconds(found, devices(*shape), V5E)
  assert seconds == (pytest.approx(1e9 * (n - 1) / n / (links * 50e9)), 0)


def test_what_crosses_slices_takes_the_network_between_them():
  across = [types.SimpleNamespace(coords=(0, 0), slice_index=i) for i in range(2)]
  found = collectives.Collective('all-reduce', 10**9, 1, np.array([[0, 1]]), '')
  assert collectives.seconds(found, across, V5E) == (0, pytest.approx(1e9 / 3.125e9))


def test_the_slowest_term_bounds_the_utilisation():
  times = costs.Times(1.0, 2.0, 0.5, 0.0, 0, 0, 0, 0)
  assert times.slowest == 'hbm_s' and times.mfu_bound(197e12 * 4, 4, V5E) == 0.5
