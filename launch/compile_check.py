"""Compiles the step of a job for a TPU slice that need not exist. It predicts whether the step
fits, what it sends, and how fast it can be at most.

  python -m launch.compile_check --config=configs/echox_8b.py:echo --topology=v5e:4x4
      [--step=train|hear|prefill|decode|speak] [--slices=N] [--json=FILE] [--explain=N] [--hlo=FILE]
      [--config.train.batch_size=64 ...]

Needs `pip install 'echox-jax[compile]'` (libtpu) but no TPU, and takes minutes on two cores.
`--topology` is a TPU slice by its cloud name (v5e:4x4, v5p:2x2x2, v6e:16x16), or cpu:8 for a dry
run on virtual CPUs. Config fields are set as in `launch.train`. `train` takes batches of the
longest bucket; packed rows have as many clips as they may. The other steps are the programs of the
engine for `engine.conversations` at once, with bfloat16 weights: `hear` encodes a question of the
longest size, `prefill` reads it, `decode` adds a token to every answer, and `speak` says a unit
word of every slice. Bytes are per chip. If a program does not fit, the report names what it needs.
The program is compiled, not run.

The times are predictions from the program's text and the published speeds of the chip
(`echox_jax/parallel/chips.py`): FLOPs, memory traffic, and messages between chips and between
slices, each without any other delay. `mfu_bound` is the share of the chips' peak that the model's
FLOPs reach if all terms but the slowest are hidden behind it. Decoding loops count with their whole
budget, which they seldom use. `--explain=N` lists the N largest costs of each kind; `--hlo` saves
the program's text.
"""

import argparse
import dataclasses
import importlib.metadata
import math
import sys
import time
from typing import Any

from flax import linen as nn
import jax
from jax.sharding import Mesh
import numpy as np

from data_pipeline import batches, rows, selection
from echox_jax import errors, storage
from echox_jax.compiled import collectives, costs, hlo, topologies
from echox_jax.parallel import chips, sharding
from echox_jax.storage import Path
from echox_jax.training import flops, stages, state, step
from echox_jax.training.experiment import ExperimentConfig
from launch import cli, compile_engine, train

STEPS = ('train', *compile_engine.PROGRAMS)
_USE = 'python -m launch.compile_check --config=configs/echox_8b.py:STAGE --topology=v5e:4x4'


def check(
  experiment: ExperimentConfig,
  topology: str,
  kind: str = 'train',
  slices: int = 1,
  explain: int = 0,
  keep: Path | None = None,
) -> dict[str, Any]:
  """Compiles and reports (launch/cloud/README.md explains the keys).

  Args:
    experiment: the job.
    topology, slices: the chips, as `topologies.devices` takes them.
    kind: one of `STEPS`.
    explain: how many of the largest costs of each kind to list under `largest`.
    keep: file for the program's text.

  Raises:
    ConfigError: an unknown topology, or a mesh or batch that does not fit it.
    MissingExtraError: libtpu is not installed.
  """
  stage = stages.get_stage(experiment.stage)
  mesh = sharding.make_mesh(
    dataclasses.asdict(experiment.mesh), topologies.devices(topology, slices)
  )
  started = time.perf_counter()
  if kind == 'train':
    lowered, weights, model_flops = _train(stage, experiment, mesh)
  else:
    lowered, weights, model_flops = compile_engine.lower(kind, experiment, mesh)
  rows = experiment.train.batch_size if kind == 'train' else experiment.engine.conversations
  report = {
    'config': '',
    'stage': stage.name,
    'topology': topology,
    'slices': slices,
    'chips': mesh.size,
    'step': kind,
    'mesh': dict(mesh.shape),
    'batch_size': rows,
    'accumulate_steps': experiment.train.accumulate_steps,
    'weights_bytes_per_chip': _bytes_per_chip(weights),
    'model_flops': model_flops,
    'jax': jax.__version__,
    'libtpu': _version('libtpu'),
  }
  chip = chips.find(mesh.devices.flat[0].device_kind)
  hbm = chip and chip.hbm_bytes
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    report |= {
      'fits': False,
      'hbm_bytes_per_chip': hbm,
      'compile_s': round(time.perf_counter() - started, 1),
      'error': str(error)[:4000],
    }
    return report
  seconds = time.perf_counter() - started
  memory = compiled.memory_analysis()
  # Donated arguments and the results that reuse their memory count once. The program itself also
  # takes memory.
  outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
  peak = (
    memory.argument_size_in_bytes
    + outputs
    + memory.temp_size_in_bytes
    + memory.generated_code_size_in_bytes
  )
  return (
    report
    | describe_program(compiled, mesh, chip, model_flops, explain, keep)
    | {
      'argument_bytes_per_chip': memory.argument_size_in_bytes,
      'temp_bytes_per_chip': memory.temp_size_in_bytes,
      'code_bytes_per_chip': memory.generated_code_size_in_bytes,
      'peak_bytes_per_chip': peak,
      'hbm_bytes_per_chip': hbm,
      'fits': None if hbm is None else peak <= hbm,
      'headroom': None if hbm is None else 1 - peak / hbm,
      'compile_s': round(seconds, 1),
    }
  )


def describe_program(
  compiled: jax.stages.Compiled,
  mesh: Mesh,
  chip: chips.Chip | None,
  model_flops: float,
  explain: int,
  keep: Path | None,
) -> dict[str, Any]:
  """What the program sends, and lower bounds of the step time; None if JAX cannot parse the program
  or the chip is unknown.
  """
  devices, none = list(mesh.devices.flat), dict.fromkeys((*_SENT, *_TIMES))
  try:
    text = compiled.as_text()
  except jax.errors.JaxRuntimeError as error:
    # libtpu may write its own kind of asynchronous calls
    print(f'collectives and times are not known: {str(error).splitlines()[0]}', file=sys.stderr)
    return none
  if keep:
    storage.atomic_write_text(keep, text)
  program = hlo.read(text)
  found = collectives.read(program)
  slice_of = [getattr(device, 'slice_index', None) or 0 for device in devices]
  report = none | {
    'collectives': collectives.summary(found),
    'collectives_across_slices': collectives.summary([c for c in found if c.crosses(slice_of)]),
    'loops_of_unknown_length': len(program.unknown),
    'loops_counted_by_budget': len(program.by_budget),
    **dict(zip(('ici_bytes_per_chip', 'dcn_bytes_per_chip'), costs.received(found, devices))),
  }
  if chip is None:
    return report
  times = costs.times(program, devices, chip)
  report |= {name: getattr(times, name) for name in _TIMES[:4]} | {
    'mfu_bound': times.mfu_bound(model_flops, len(devices), chip),
    'slowest_term': times.slowest,
    'hlo_flops_per_chip': times.flops,
    'hbm_traffic_bytes_per_chip': times.hbm_bytes,
    'kernels_without_flops': times.kernels_without_flops,
  }
  return report | ({'largest': costs.largest(program, devices, chip, explain)} if explain else {})


_SENT = (
  'collectives',
  'collectives_across_slices',
  'loops_of_unknown_length',
  'loops_counted_by_budget',
  'ici_bytes_per_chip',
  'dcn_bytes_per_chip',
)
_TIMES = (
  'compute_s',
  'hbm_s',
  'ici_s',
  'dcn_s',
  'mfu_bound',
  'slowest_term',
  'hlo_flops_per_chip',
  'hbm_traffic_bytes_per_chip',
  'kernels_without_flops',
)


def batch_shapes(experiment: ExperimentConfig) -> dict[str, jax.ShapeDtypeStruct]:
  """Arrays of a whole batch of the stage, as its data pipeline makes them; if batch sizes differ,
  those of the largest batch.
  """
  ids = np.zeros(1, np.int32)
  row = {'input_ids': ids, 'labels': ids}
  if experiment.stage == 'align':
    row = {}
  if experiment.stage in selection.HEARING_STAGES:
    row |= {'ctc_labels': ids, 'audio': np.zeros(1, np.float32)}
  if experiment.stage == 'vocoder':
    row = {'units': ids, 'audio': np.zeros(experiment.model.vocoder.code_hop_size, np.float32)}
  batch = rows.stack([batches.Finish(experiment)(row, np.random.default_rng(0))])
  return {
    name: jax.ShapeDtypeStruct((experiment.train.batch_size, *value.shape[1:]), value.dtype)
    for name, value in batch.items()
  }


def _train(stage: stages.Stage, experiment: ExperimentConfig, mesh: Mesh):
  """(the lowered step, its parameters, FLOPs of the model)."""
  step.check(stage, experiment, mesh)
  functions = step.make_train_step(stage, experiment, mesh).functions
  abstract = state.abstract_state(stage, experiment, mesh)
  batch = {
    name: leaf.update(sharding=sharding.batch_sharding(mesh))
    for name, leaf in batch_shapes(experiment).items()
  }
  with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
    lowered = functions[max(functions, key=lambda name: name == 'adversarial')].lower(
      abstract.step, abstract.trainable, abstract.opt_state, abstract.frozen, batch
    )
  return lowered, abstract.params(), flops.step_flops(experiment, batch)


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def _bytes_per_chip(tree) -> int:
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def show(report: dict[str, Any]) -> str:
  """The report as text."""

  def gib(n):
    return f'{n / 2**30:.2f} GiB'

  lines = [
    f'{report["config"]} on {report["slices"]} x {report["topology"]} ({report["chips"]} '
    f'chips), step {report["step"]}, '
    f'batch {report["batch_size"]} in {report["accumulate_steps"]} parts, compiled in '
    f'{report["compile_s"]} s, not run'
  ]
  if 'error' in report:
    return '\n'.join(
      [*lines, f'does NOT fit in {gib(report["hbm_bytes_per_chip"])}: {report["error"]}']
    )
  lines.append(
    f'a chip: {gib(report["peak_bytes_per_chip"])} (weights '
    f'{gib(report["weights_bytes_per_chip"])}, all arguments '
    f'{gib(report["argument_bytes_per_chip"])}, temporaries '
    f'{gib(report["temp_bytes_per_chip"])})'
  )
  if report['fits'] is not None:
    lines[-1] += f' of {gib(report["hbm_bytes_per_chip"])}: ' + (
      f'fits, {report["headroom"]:.1%} left' if report['fits'] else 'does NOT fit'
    )
  lines.append(f'model FLOPs of a step, all chips: {report["model_flops"]:.3g}')
  if report.get('compute_s') is not None:
    lines.append(
      'a step takes at least: '
      + ', '.join(f'{name[:-2]} {report[name]:.3g} s' for name in _TIMES[:4])
      + f'; MFU at most {report["mfu_bound"]:.2f} ({report["slowest_term"]})'
    )
  for term, costs_of_term in report.get('largest', {}).items():
    lines += [term] + [f'  {seconds:.4f} s  {what}' for seconds, what in costs_of_term]
  for title, name in (
    ('collectives', 'collectives'),
    ('of them between slices', 'collectives_across_slices'),
  ):
    lines += (
      [
        f'{title}: '
        + ', '.join(f'{kind} {c["count"]} x, {gib(c["bytes"])}' for kind, c in report[name].items())
      ]
      if report[name]
      else []
    )
  return '\n'.join(lines)


def main() -> int:
  if any(argument in ('-h', '--help') for argument in sys.argv[1:]):
    print(__doc__)
    return 0
  parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
  parser.add_argument('--topology')
  parser.add_argument('--step', default='train')
  parser.add_argument('--slices', default='1')
  parser.add_argument('--json', type=storage.check_writable)
  parser.add_argument('--explain', default='0')
  parser.add_argument('--hlo', type=storage.check_writable)
  own, rest = parser.parse_known_args()
  if not own.topology or not any(argument.startswith('--config=') for argument in rest):
    raise errors.ConfigError(f'--topology or --config is missing: run `{_USE}`.')
  if own.step not in STEPS or not own.slices.isdigit() or not own.explain.isdigit():
    raise errors.ConfigError(
      f'--step {own.step} --slices {own.slices} --explain {own.explain} '
      'is not valid: use a step of '
      f'{", ".join(STEPS)}, a number of slices and a number of lines.'
    )
  experiment, _values = train.parse(
    [sys.argv[0], *rest, '--workdir=unused'], 'launch.compile_check'
  )
  if int(own.slices) > 1:
    experiment = dataclasses.replace(
      experiment, mesh=dataclasses.replace(experiment.mesh, dcn_data=int(own.slices))
    )
  # only compiles for these chips: does not look for them on this machine
  jax.config.update('jax_platforms', 'cpu')
  report = check(experiment, own.topology, own.step, int(own.slices), int(own.explain), own.hlo)
  report['config'] = next(
    argument.split('=', 1)[1] for argument in rest if argument.startswith('--config=')
  )
  print(show(report))
  if own.json:
    storage.atomic_write_json(own.json, report)
  return 1 if report['fits'] is False else 0


if __name__ == '__main__':
  cli.run(main)
