"""Compiles the step of a job for a slice that is not there: does it fit, what will it send, what is there to compute?

  python -m launch.compile_check --config=configs/echox_8b.py:echo --topology=v5e:4x4
      [--step=train|prefill|decode] [--slices=N] [--json=FILE] [--config.train.batch_size=64 ...]

Needs `pip install 'echox-jax[compile]'` (libtpu) and no TPU; minutes on two cores. `--topology` is a TPU slice as the cloud names it
(v5e:4x4, v5p:2x2x2, v6e:16x16), or cpu:8 for a dry run on virtual CPUs. Fields of the config are set as in `launch.train`.
`train` takes batches of the longest bucket, packed rows with all clips that they may have. `prefill` reads `train.batch_size`
questions of the longest size, `decode` adds a token to each; their weights are bfloat16.
Bytes are those of one chip; a program that does not fit names what it needs. What compiles has not run.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import math
from pathlib import Path
import sys
import time
from typing import Any

from flax import linen as nn
import jax
from jax.sharding import Mesh, NamedSharding
import numpy as np

from data_pipeline import batches, rows
from echox_jax import chips, collectives, errors, files, sharding, topologies
from echox_jax.inference import steps
from echox_jax.training import flops, stages, state, step
from echox_jax.training.experiment import ExperimentConfig
from launch import train

STEPS = ('train', 'prefill', 'decode')
ANSWERING = ('whisper', 'adapter', 'llm')  # groups that prefill and decode read
_USE = 'python -m launch.compile_check --config=configs/echox_8b.py:STAGE --topology=v5e:4x4'


def check(experiment: ExperimentConfig, topology: str, kind: str = 'train', slices: int = 1) -> dict[str, Any]:
  """Compiles and reports (the keys are explained in the README).

  Raises:
    ConfigError: an unknown topology, or a mesh or batch that does not fit it.
    MissingExtraError: no libtpu.
  """
  stage = stages.get_stage(experiment.stage)
  mesh = sharding.make_mesh(dataclasses.asdict(experiment.mesh), topologies.devices(topology, slices))
  lower = {'train': _train, 'prefill': _prefill, 'decode': _decode}[kind]
  started = time.perf_counter()
  lowered, weights, model_flops = lower(stage, experiment, mesh)
  report = {'config': '', 'stage': stage.name, 'topology': topology, 'slices': slices, 'chips': mesh.size, 'step': kind,
            'mesh': dict(mesh.shape), 'batch_size': experiment.train.batch_size, 'accumulate_steps': experiment.train.accumulate_steps,
            'weights_bytes_per_chip': _bytes_per_chip(weights), 'model_flops': model_flops}
  chip = chips.find(mesh.devices.flat[0].device_kind)
  hbm = chip and chip.hbm_bytes
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    report |= {'fits': False, 'hbm_bytes_per_chip': hbm, 'compile_s': round(time.perf_counter() - started, 1), 'error': str(error)[:4000]}
    return report
  seconds = time.perf_counter() - started
  memory = compiled.memory_analysis()
  # Donated arguments and the results in their place are counted once; the program itself is in memory as well.
  outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
  peak = memory.argument_size_in_bytes + outputs + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
  slice_of = [getattr(device, 'slice_index', None) or 0 for device in mesh.devices.flat]
  return report | _collectives(compiled, slice_of) | {
      'argument_bytes_per_chip': memory.argument_size_in_bytes, 'temp_bytes_per_chip': memory.temp_size_in_bytes,
      'code_bytes_per_chip': memory.generated_code_size_in_bytes, 'peak_bytes_per_chip': peak, 'hbm_bytes_per_chip': hbm,
      'fits': None if hbm is None else peak <= hbm, 'headroom': None if hbm is None else 1 - peak / hbm, 'compile_s': round(seconds, 1)}


def _collectives(compiled: jax.stages.Compiled, slice_of: Sequence[int]) -> dict[str, Any]:
  """What the program sends; None where JAX cannot read it back (libtpu may write asynchronous calls of a kind of its own)."""
  try:
    found, unknown = collectives.read(compiled.as_text())
  except jax.errors.JaxRuntimeError as error:
    print(f'collectives are not known: {str(error).splitlines()[0]}', file=sys.stderr)
    return dict.fromkeys(('collectives', 'collectives_across_slices', 'loops_of_unknown_length'))
  across = [collective for collective in found if collective.crosses(slice_of)]
  return {'collectives': collectives.summary(found), 'collectives_across_slices': collectives.summary(across),
          'loops_of_unknown_length': unknown}


def batch_shapes(experiment: ExperimentConfig) -> dict[str, jax.ShapeDtypeStruct]:
  """Arrays of a whole batch of the stage, as its data pipeline makes them; where sizes differ between batches, of the largest."""
  ids = np.zeros(1, np.int32)
  row = {'input_ids': ids, 'labels': ids}
  if experiment.stage in ('s2t', 'echo'):
    row |= {'ctc_labels': ids, 'audio': np.zeros(1, np.float32)}
  if experiment.stage == 'vocoder':
    row = {'units': ids, 'audio': np.zeros(experiment.model.vocoder.code_hop_size, np.float32)}
  batch = rows.stack([batches.Finish(experiment)(row, np.random.default_rng(0))])
  return {name: jax.ShapeDtypeStruct((experiment.train.batch_size, *value.shape[1:]), value.dtype) for name, value in batch.items()}


def _train(stage: stages.Stage, experiment: ExperimentConfig, mesh: Mesh):
  """(the lowered step, its parameters, FLOPs of the model)."""
  step.check(stage, experiment, mesh)
  functions = step.make_train_step(stage, experiment, mesh).functions
  abstract = state.abstract_state(stage, experiment, mesh)
  batch = {name: leaf.update(sharding=sharding.batch_sharding(mesh)) for name, leaf in batch_shapes(experiment).items()}
  with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
    lowered = functions[max(functions, key=lambda name: name == 'adversarial')].lower(
        abstract.step, abstract.trainable, abstract.opt_state, abstract.frozen, batch)
  return lowered, abstract.params(), flops.step_flops(experiment, batch)


def _prefill(stage: stages.Stage, experiment: ExperimentConfig, mesh: Mesh):
  del stage  # the same for all
  params, arrays, shapes = _answering(experiment, mesh)
  with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
    lowered = jax.jit(_reader(experiment), out_shardings=jax.tree.map(lambda leaf: leaf.sharding, shapes)).lower(params, arrays)
  return lowered, params, flops.prefill_flops(experiment)


def _decode(stage: stages.Stage, experiment: ExperimentConfig, mesh: Mesh):
  del stage  # the same for all
  params, arrays, shapes = _answering(experiment, mesh)
  token = jax.ShapeDtypeStruct((experiment.train.batch_size,), 'int32', sharding=sharding.batch_sharding(mesh))
  advance = lambda params, text, token: steps.advance(experiment.model, params, text, token)
  with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
    lowered = jax.jit(advance, donate_argnums=1, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, shapes)).lower(
        {'llm': params['llm']}, shapes, token)
  return lowered, {'llm': params['llm']}, flops.decode_flops(experiment)


def _reader(experiment: ExperimentConfig):
  """Waveforms and prompts -> the LLM behind them."""
  cfg = experiment.model

  def read(params, arrays):
    states, lengths = steps.encode(cfg, params, arrays['audio'], arrays['audio_lengths'])
    return steps.read(cfg, params, arrays['input_ids'], steps.embed(cfg, params, states, lengths))

  return read


def _answering(experiment: ExperimentConfig, mesh: Mesh):
  """Shapes of the parameters in bfloat16, of a batch of questions, and of the LLM's state after them."""
  sharding.check_rows(experiment.train.batch_size, mesh, 'train.batch_size')
  params = jax.tree.map(lambda leaf: leaf.update(dtype='bfloat16'), state.abstract_params(experiment.model, ANSWERING, mesh))
  wanted = ('audio', 'audio_lengths', 'input_ids')
  heard = dataclasses.replace(experiment, stage='s2t', data=dataclasses.replace(experiment.data, cached_states=False, packing=False))
  arrays = {name: leaf.update(sharding=sharding.batch_sharding(mesh)) for name, leaf in batch_shapes(heard).items() if name in wanted}
  text = jax.eval_shape(_reader(experiment), params, arrays)
  cache = NamedSharding(mesh, sharding.spec((None, 'batch', None, 'kv_heads', None)))
  by_rows = lambda leaf: leaf.update(sharding=sharding.batch_sharding(mesh) if leaf.ndim else NamedSharding(mesh, sharding.spec(())))
  shapes = jax.tree.map(by_rows, text)
  return params, arrays, shapes.replace(cache=jax.tree.map(lambda leaf: leaf.update(sharding=cache), text.cache))


def _bytes_per_chip(tree) -> int:
  return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def show(report: dict[str, Any]) -> str:
  """The report for people."""
  gib = lambda n: f'{n / 2**30:.2f} GiB'
  lines = [f'{report["config"]} on {report["slices"]} x {report["topology"]} ({report["chips"]} chips), step {report["step"]}, '
           f'batch {report["batch_size"]} in {report["accumulate_steps"]} parts, compiled in {report["compile_s"]} s, not run']
  if 'error' in report:
    return '\n'.join([*lines, f'does NOT fit in {gib(report["hbm_bytes_per_chip"])}: {report["error"]}'])
  lines.append(f'a chip: {gib(report["peak_bytes_per_chip"])} (weights {gib(report["weights_bytes_per_chip"])}, all arguments '
               f'{gib(report["argument_bytes_per_chip"])}, temporaries {gib(report["temp_bytes_per_chip"])})')
  if report['fits'] is not None:
    lines[-1] += f' of {gib(report["hbm_bytes_per_chip"])}: ' + (f'fits, {report["headroom"]:.1%} left' if report['fits'] else 'does NOT fit')
  lines.append(f'model FLOPs of a step, all chips: {report["model_flops"]:.3g}')
  for title, name in (('collectives', 'collectives'), ('of them between slices', 'collectives_across_slices')):
    lines += [f'{title}: ' + ', '.join(f'{kind} {c["count"]} x, {gib(c["bytes"])}' for kind, c in report[name].items())] if report[name] else []
  return '\n'.join(lines)


def main() -> int:
  if any(argument in ('-h', '--help') for argument in sys.argv[1:]):
    print(__doc__)
    return 0
  parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
  parser.add_argument('--topology')
  parser.add_argument('--step', default='train')
  parser.add_argument('--slices', default='1')
  parser.add_argument('--json', type=Path)
  own, rest = parser.parse_known_args()
  if not own.topology or not any(argument.startswith('--config=') for argument in rest):
    raise errors.ConfigError(f'--topology or --config is missing: run `{_USE}`.')
  if own.step not in STEPS or not own.slices.isdigit():
    raise errors.ConfigError(f'--step {own.step} --slices {own.slices} cannot be done: use a step of {", ".join(STEPS)} and a number of slices.')
  experiment, values = train.parse([sys.argv[0], *rest, '--workdir=unused'], 'launch.compile_check')
  if int(own.slices) > 1:
    experiment = dataclasses.replace(experiment, mesh=dataclasses.replace(experiment.mesh, dcn_data=int(own.slices)))
  jax.config.update('jax_platforms', 'cpu')  # the chips that are compiled for are not looked for here
  report = check(experiment, own.topology, own.step, int(own.slices))
  report['config'] = next(argument.split('=', 1)[1] for argument in rest if argument.startswith('--config='))
  print(show(report))
  if own.json:
    files.atomic_write_json(own.json, report)
  return 1 if report['fits'] is False else 0


if __name__ == '__main__':
  errors.run_cli(main)
