"""compile_check on virtual CPUs, what it reads from a program, and its errors. libtpu itself is
needed by slow tests alone.
"""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from echox_jax import errors
from echox_jax.compiled import collectives, hlo, topologies
from echox_jax.parallel import sharding
from launch import compile_check
from tests.helpers.paths import ROOT

HLO = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (state: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %state = (s32[], f32[8,16]) parameter(0)
  %x = f32[4,16]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %gathered = f32[8,16]{1,0} all-gather(%x), channel_id=1, replica_groups=[2,2]<=[4], dimensions={0}, metadata={op_name="layer/gather"}
  %inner = f32[8,16]{1,0} while(%gathered), condition=%short, body=%turn
  ROOT %out = (s32[], f32[8,16]) tuple(%state, %inner)
}

%condition (state: (s32[], f32[8,16])) -> pred[] {
  %limit = s32[]{:T(128)} constant(32)
  %state = (s32[], f32[8,16]) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%turn (x: f32[8,16]) -> f32[8,16] {
  %x = f32[8,16] parameter(0)
  %sent = (f32[8,16], f32[8,16], u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}
  ROOT %done = f32[8,16] collective-permute-done(%sent)
}

%short (x: f32[8,16]) -> pred[] {
  %x = f32[8,16] parameter(0)
  ROOT %more = pred[] custom-call(%x), custom_call_target="unknown"
}

ENTRY %main (p: f32[4,16]) -> f32[] {
  %p = f32[4,16] parameter(0)
  %kernel = f32[4,16] custom-call(%p), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"block_q": 512,
}}
  %loop = (s32[], f32[8,16]) while(%p), condition=%condition, body=%body
  %both = (bf16[4], f32[2,2]) all-reduce(%p, %p), replica_groups={{0,2},{1,3}}, to_apply=%add
  %mesh = f32[4] all-reduce(%p), replica_groups=mesh['a'=2,'b'=2] {'a'}, to_apply=%add
  ROOT %less = f32[2] reduce-scatter(%p), replica_groups={}, to_apply=%add
}
"""


def run(*arguments):
  environment = os.environ | {
    'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
  }
  return subprocess.run(
    [sys.executable, '-m', 'launch.compile_check', *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=900,
    env=environment,
  )


def test_collectives_are_counted_with_the_turns_of_their_loops():
  program = hlo.read(HLO)
  found, unknown = collectives.read(program), len(program.unknown)
  assert collectives.summary(found) == {
    'all-gather': {'count': 32, 'bytes': 32 * 512},
    'all-reduce': {'count': 2, 'bytes': 24 + 16},
    'reduce-scatter': {'count': 1, 'bytes': 256},
    'collective-permute': {'count': 32, 'bytes': 32 * 512},
  }
  assert unknown == 1
  gather, permute, both, by_mesh, scatter = (
    sorted(found, key=lambda c: (c.kind, c.bytes != 24))[0],
    *(
      next(c for c in found if test(c))
      for test in (
        lambda c: c.kind == 'collective-permute',
        lambda c: c.bytes == 24,
        lambda c: c.bytes == 16,
        lambda c: c.kind == 'reduce-scatter',
      )
    ),
  )
  assert gather.name == 'layer/gather'
  np.testing.assert_array_equal(gather.groups, [[0, 1], [2, 3]])
  np.testing.assert_array_equal(by_mesh.groups, [[0, 2], [1, 3]])
  slices = [0, 0, 1, 1]
  assert [c.crosses(slices) for c in (gather, permute, both, by_mesh, scatter)] == [
    False,
    False,
    True,
    True,
    True,
  ]


@pytest.mark.parametrize(
  'step, stage, batch',
  [
    ('train', 't2c', 16),
    pytest.param('train', 'vocoder', 8, marks=pytest.mark.slow),
    *(
      pytest.param(name, 's2t', 8, marks=pytest.mark.slow)
      for name in ('hear', 'prefill', 'decode', 'speak')
    ),
  ],
)
def test_dry_run_on_virtual_cpus(tmp_path, step, stage, batch):
  done = run(
    f'--config=configs/echox_nano.py:{stage}',
    '--topology=cpu:8',
    f'--step={step}',
    f'--json={tmp_path / "report.json"}',
    '--config.mesh.data=2',
    '--config.mesh.fsdp=4',
    f'--config.train.batch_size={batch}',
    f'--config.engine.conversations={batch}',
    # an LLM with all the parameters that a family may have
    '--config.model.llm.qkv_bias=True',
    '--config.model.llm.qk_norm=True',
  )
  assert done.returncode == 0, done.stderr[-2000:]
  report = json.loads((tmp_path / 'report.json').read_text())
  assert (
    report['config'] == f'configs/echox_nano.py:{stage}'
    and report['chips'] == 8
    and report['step'] == step
  )
  assert (
    report['stage'] == stage
    and report['topology'] == 'cpu:8'
    and report['fits'] is None
    and report['hbm_bytes_per_chip'] is None
  )
  assert report['collectives'] and report['model_flops'] > 1e7 and report['compile_s'] > 0
  assert (
    0
    < report['weights_bytes_per_chip']
    <= report['argument_bytes_per_chip']
    < report['peak_bytes_per_chip']
  )
  assert report['temp_bytes_per_chip'] > 0 and 'not run' in done.stdout


def test_a_program_that_cannot_be_read_back_is_still_measured(capsys):
  class Unreadable:
    def as_text(self):
      raise jax.errors.JaxRuntimeError('INTERNAL: operands\nmore')

  mesh = sharding.make_mesh({}, jax.devices()[:1])
  found = compile_check.describe_program(Unreadable(), mesh, None, 1.0, 0, None)
  assert {
    'collectives',
    'collectives_across_slices',
    'loops_of_unknown_length',
    'compute_s',
    'mfu_bound',
  } <= found.keys()
  assert set(found.values()) == {None}
  assert capsys.readouterr().err == 'collectives and times are not known: INTERNAL: operands\n'


@pytest.mark.parametrize(
  'argument, message',
  [
    ('--config.mesh.data=3', 'does not multiply to the 8 devices'),
    ('--config.train.batch_size=12', 'is not a multiple of the 8 parts'),
  ],
)
def test_mesh_and_batch_errors_in_one_sentence(argument, message):
  done = run('--config=configs/echox_nano.py:t2c', '--topology=cpu:8', argument)
  assert (
    done.returncode == 2
    and message in done.stderr
    and done.stderr.startswith('error: ')
    and len(done.stderr.splitlines()) == 1
  )


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--topology=v5e:4x4'], '--config is missing'),
    (['--config=configs/echox_nano.py:t2c'], '--topology or --config is missing'),
    (['--config=configs/echox_nano.py:t2c', '--topology=v5e'], 'are not a topology'),
    (
      ['--config=configs/echox_nano.py:t2c', '--topology=v5e:4x4', '--slices=0'],
      'are not a topology',
    ),
    (['--config=configs/echox_nano.py:t2c', '--topology=cpu:none'], 'not a number of virtual CPUs'),
    (
      ['--config=configs/echox_nano.py:t2c', '--topology=cpu:1', '--step=dance'],
      'use a step of train, hear, prefill, decode, speak',
    ),
    (
      ['--config=configs/echox_nano.py:t2c', '--topology=cpu:1', '--config.train.batchsize=12'],
      'no field',
    ),
  ],
)
def test_errors_of_the_command_line(arguments, message, monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['compile_check', *arguments])
  with pytest.raises(errors.EchoXError, match=message):
    compile_check.main()


def test_no_libtpu(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(errors.MissingExtraError, match=r'echox-jax\[compile\]'):
    topologies.devices('v5e:4x4')


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None,
  reason="libtpu is not installed (pip install 'echox-jax[compile]')",
)
def test_nano_compiles_for_a_tpu(tmp_path):
  done = run(
    '--config=configs/echox_nano.py:t2c', '--topology=v5e:2x2', f'--json={tmp_path / "report.json"}'
  )
  assert done.returncode == 0, done.stderr[-2000:]
  report = json.loads((tmp_path / 'report.json').read_text())
  assert (
    report['fits']
    and report['chips'] == 4
    and report['hbm_bytes_per_chip'] == 16 * 2**30
    and 'all-reduce' in report['collectives']
  )


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None,
  reason="libtpu is not installed (pip install 'echox-jax[compile]')",
)
def test_a_topology_that_libtpu_does_not_know():
  done = run('--config=configs/echox_nano.py:t2c', '--topology=v9:2x2')
  assert done.returncode == 2 and "does not know the topology 'v9:2x2'" in done.stderr
