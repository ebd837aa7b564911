"""What a program costs, read from its text: against counts by hand."""

import importlib.util
import types

import jax
import jax.numpy as jnp
import pytest

from echox_jax.compiled import collectives, costs, hlo
from echox_jax.parallel import chips
from tests.helpers import tpu_program
from tests.helpers.processes import run_python

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

    return jax.lax.while_loop(
      goes_on, lambda state: (state[0] + 1, state[1] @ w), (jnp.int32(0), x)
    )

  read = program(decode, jnp.ones((32, 32)), jnp.ones((4, 32)))
  assert flops(read) == 13 * 2 * 4 * 32 * 32 and len(read.by_budget) == 1 and not read.unknown


def test_a_loop_whose_turns_the_data_tell_is_reported():
  def run(n, w, x):
    return jax.lax.while_loop(
      lambda state: state[0] < n, lambda state: (state[0] + 1, state[1] @ w), (jnp.int32(0), x)
    )

  read = program(run, jnp.int32(3), jnp.ones((32, 32)), jnp.ones((4, 32)))
  assert flops(read) == 2 * 4 * 32 * 32 and len(read.unknown) == 1


TPU = """HloModule jit_step, is_scheduled=true

%fused_slice (w: bf16[32,64,64], i: s32[]) -> bf16[64,64] {
  %w = bf16[32,64,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  %zero = s32[] constant(0)
  %part = bf16[1,64,64]{2,1,0:T(8,128)(2,1)} dynamic-slice(%w, %i, %zero, %zero), dynamic_slice_sizes={1,64,64}
  ROOT %flat = bf16[64,64]{1,0} bitcast(%part)
}

%fused_update (cache: bf16[32,64,64], new: bf16[1,64,64], i: s32[]) -> bf16[32,64,64] {
  %cache = bf16[32,64,64]{2,1,0} parameter(0)
  %new = bf16[1,64,64]{2,1,0:T(8,128)(2,1)S(1)} parameter(1)
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
  moved = {
    cost.what.split()[-1]: cost.bytes / 513
    for cost in costs.instructions(read)
    if cost.what.startswith('513')
  }
  slice_bytes = 2 * 64 * 128  # 128 lanes in memory, of which 64 are used
  scalars = 16
  # read from memory; where it goes to is on the chip
  assert moved['slice'] == pytest.approx(slice_bytes, abs=scalars)
  # the part is written in place; what it is made of is on the chip
  assert moved['written'] == pytest.approx(slice_bytes, abs=scalars)
  assert moved['product'] == 4 * 16 * 128


def check_tpu_program(text):
  """Counts by hand of `tpu_program.step` on each of its chips."""
  read, own = hlo.read(text), tpu_program
  again, rows, said, size = (
    own.BUDGET * own.LAYERS,
    own.ROWS // own.CHIPS,
    own.ROWS // 8 // own.CHIPS,
    own.WIDTH**2,
  )
  assert flops(read) == 2 * size * (own.LAYERS * rows + again * said)
  assert len(read.by_budget) == 1 and not read.unknown
  gathered = collectives.summary(collectives.read(read))['all-gather']
  assert gathered == {'count': own.LAYERS + again, 'bytes': (own.LAYERS + again) * 2 * size}
  # Each token reads and writes the cache of each layer, since `scan` takes it out of all and puts
  # it back; weights are read in parts.
  cache = own.SLOTS * said * own.WIDTH * 2
  moved = own.LAYERS * cache + again * 2 * cache + (own.LAYERS + again) * 2 * size // own.CHIPS
  assert sum(cost.bytes for cost in costs.instructions(read)) == pytest.approx(moved, rel=2e-3)


def test_a_program_that_was_compiled_for_a_tpu():
  check_tpu_program(tpu_program.TEXT.read_text('utf-8'))


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None,
  reason="libtpu is not installed (pip install 'echox-jax[compile]')",
)
def test_the_same_program_as_this_libtpu_compiles_it():
  code = (
    'from echox_jax.compiled import topologies; from tests import tpu_program as p; '
    'print(p.compile_for(topologies.devices(p.TOPOLOGY)))'
  )
  printed = run_python('-c', code, timeout=600)
  check_tpu_program(printed)


def test_a_convolution_and_a_chain_of_small_operations():
  x, kernel = jnp.ones((2, 50, 16)), jnp.ones((3, 16, 32))
  convolve = lambda x, kernel: jax.lax.conv_general_dilated(
    x, kernel, (1,), 'VALID', dimension_numbers=('NWC', 'WIO', 'NWC')
  )
  assert flops(program(convolve, x, kernel)) == 2 * 2 * 48 * 32 * 3 * 16
  chain = program(lambda x: jnp.exp(jnp.tanh(x) * 2) + 1, jnp.ones((256, 256)))
  # one fusion
  assert (
    flops(chain) == 0 and sum(cost.bytes for cost in costs.instructions(chain)) == 2 * 4 * 256 * 256
  )


def test_a_product_reads_its_operands_and_writes_its_result():
  read = program(lambda x, y: x @ y, jnp.ones((64, 128)), jnp.ones((128, 256)))
  assert sum(cost.bytes for cost in costs.instructions(read)) == 4 * (
    64 * 128 + 128 * 256 + 64 * 256
  )


def test_of_a_conditional_the_most_expensive_branch_counts():
  large, small = lambda x: x @ x @ x, lambda x: x + 1
  read = program(lambda yes, x: jax.lax.cond(yes, large, small, x), True, jnp.ones((32, 32)))
  assert flops(read) == 2 * 2 * 32**3
  both = program(
    lambda yes, x: jax.lax.cond(yes, large, lambda x: x @ x, x), True, jnp.ones((32, 32))
  )
  assert flops(both) == 2 * 2 * 32**3


def test_a_loop_that_does_not_start_at_0():
  started = UNROLLED.replace(
    '%p = (s32[], f32[8]) parameter(0)',
    '%x = f32[8] parameter(0)\n  %three = u32[] constant(3)\n  %p = '
    '(s32[], f32[8]) tuple(%three, %x)',
  )
  assert hlo.read(started).times['body'] == 2


KERNEL = """HloModule jit_step

ENTRY %main (q: bf16[8,32,1024,128], k: bf16[8,8,1024,128]) -> bf16[8,32,1024,128] {
  %mask = s8[1,2,2]{2,1,0} parameter(2)
  %q = bf16[8,32,1024,128]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  %k = bf16[8,8,1024,128]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  %mine = s32[8,1024,128]{2,1,0} parameter(3)
  %theirs = s32[8,8,1024]{2,1,0} parameter(4)
  %iota = s32[1024,128]{1,0} iota(), iota_dimension=0
  ROOT %kernel.1 = bf16[8,32,1024,128]{3,2,1,0:T(8,128)(2,1)} custom-call(%mask, %mask, %q, %k, %k, /*index=5*/%mine, %theirs, %iota), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512, \\"block_kv\\": 512, \\"block_q_dkv\\": 256, \\"block_kv_dkv\\": 1024, \\"block_q_dq\\": 512, \\"block_kv_dq\\": 512}"
}}, metadata={op_name="jit(step)/splash_mha_fwd_segmented_residuals/pallas_call"}, backend_config={"custom_call_config":{"body":"TUzv"}}
}
"""


@pytest.mark.parametrize(
  'text, products, share',
  [
    (KERNEL, 2, 3 / 4),  # 2 x 2 blocks, one of them above the diagonal
    (KERNEL.replace(', %iota)', ')'), 2, 1),
    (KERNEL.replace('mha_fwd', 'mha_dkv'), 4, 1),  # 4 x 1 blocks, none above it
    (KERNEL.replace('mha_fwd', 'mha_dq'), 3, 3 / 4),
  ],
)
def test_splash_attention_counts_its_blocks(text, products, share):
  read = hlo.read(text)
  assert flops(read) == products * 2 * 8 * 32 * 1024 * 1024 * 128 * share
  assert costs.times(read, [types.SimpleNamespace(coords=(0, 0))], V5E).kernels_without_flops == 0


def test_a_kernel_that_nobody_knows_is_reported():
  read = hlo.read(KERNEL.replace('splash_mha_fwd', 'something'))
  assert (
    flops(read) == 0
    and costs.times(read, [types.SimpleNamespace(coords=(0, 0))], V5E).kernels_without_flops == 1
  )


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


def test_the_slowest_term_bounds_the_utilisation():
  times = costs.Times(1.0, 2.0, 0.5, 0.0, 0, 0, 0, 0, 0)
  assert times.slowest == 'hbm_s' and times.mfu_bound(197e12 * 4, 4, V5E) == 0.5
