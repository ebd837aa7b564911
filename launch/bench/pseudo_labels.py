"""Time of a step of echo training at nano size: pseudo-labels decoded within the step against the
same step with given pseudo-labels.

Rows and parameters are random. An untrained T2C never ends, so decoding uses its whole budget: this
is the most that it can cost. Slices are cut by the streaming rule, as always.

Figures: `on_the_fly_seconds`, `given_seconds` (medians of alternating steps) and their `ratio`;
`on_the_fly_compile_seconds`, `given_compile_seconds`; `slices`, `unit_words` (per batch), `room`
(for slices, and for words in each), `steps`.
"""

import argparse
import time
from typing import Any
from unittest import mock

from flax import linen as nn
import jax
import numpy as np

from configs import echox_nano
from data_pipeline import batches, rows
from echox_jax import config, prompts
from echox_jax.decoding.generate import UnitWords
from echox_jax.parallel import sharding
from echox_jax.training import echo_step, stages, state, step
from echox_jax.training.experiment import ExperimentConfig

_WARM_UP = 2  # steps that are not measured


def add_options(command: argparse.ArgumentParser) -> None:
  """Adds the options of this measurement."""
  command.add_argument(
    '--steps', type=int, default=10, help='measured steps of each kind (default %(default)s)'
  )


def measure(options: argparse.Namespace) -> dict[str, Any]:
  """The figures above."""
  job = config.build(ExperimentConfig, echox_nano.get_config('echo').to_dict())
  stage, mesh = stages.get_stage('echo'), sharding.make_mesh({}, jax.devices()[:1])
  room, words = job.train.loss.slices_per_batch, job.data.max_unit_words
  given = UnitWords(
    np.zeros((room, words), np.int32), np.full(room, words, np.int32), np.zeros(room, np.int32)
  )
  sources = {'on_the_fly': echo_step.pseudo_labels, 'given': lambda *arguments: given}
  compiled, current, compile_seconds, seconds, said = {}, {}, {}, {name: [] for name in sources}, {}
  with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
    batch = step.put_batch(_batch(job), mesh)
    train_step = step.make_train_step(stage, job, mesh)
    for name, source in sources.items():
      current[name] = start = state.create_state(stage, job, mesh, None)
      started = time.perf_counter()
      with mock.patch.object(echo_step, 'pseudo_labels', source):
        # A new function each time, so that JAX does not reuse the trace of the other.
        function = step.make_train_step(stage, job, mesh).functions['step']
        compiled[name] = function.lower(
          start.step, start.trainable, start.opt_state, start.frozen, batch
        ).compile()
      compile_seconds[name] = time.perf_counter() - started
    for _ in range(_WARM_UP + options.steps):
      for name, function in compiled.items():
        started = time.perf_counter()
        current[name], said[name] = jax.block_until_ready(
          train_step(function, current[name], batch)
        )
        seconds[name].append(time.perf_counter() - started)
  median = {name: float(np.median(times[_WARM_UP:])) for name, times in seconds.items()}
  return {
    **{f'{name}_seconds': value for name, value in median.items()},
    'ratio': median['on_the_fly'] / median['given'],
    **{f'{name}_compile_seconds': value for name, value in compile_seconds.items()},
    **{name: int(said['on_the_fly'][name]) for name in ('slices', 'unit_words')},
    'room': [room, words],
    'steps': options.steps,
  }


def _batch(job: ExperimentConfig) -> dict[str, np.ndarray]:
  """Rows of random ids and states, with lengths as in the demo's corpus."""
  rng, finish, model = np.random.default_rng(0), batches.Finish(job), job.model
  profile = prompts.get_profile(model.profile)

  def ids(low, high):
    return rng.integers(20, model.llm.vocab_size, rng.integers(low, high)).astype(np.int32)

  def row():
    speech = rng.normal(size=(rng.integers(80, 180), model.whisper.hidden_size)).astype(np.float16)
    tokens = rows.question_row(model.special_ids, profile, (), (), ids(15, 40), audio=True)
    return finish(tokens | {'ctc_labels': ids(8, 20), 'states': speech}, rng)

  return rows.stack([row() for _ in range(job.train.batch_size)])
