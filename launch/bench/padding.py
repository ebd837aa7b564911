"""Share of padding in batches with lengths distributed like real speech: plain, in buckets, packed.

Questions: half are dialogue turns (log-normal, median 5 s), half are read speech like LibriSpeech's
(12.3 s, deviation 3.8 s), with four tokens per second. Answers: log-normal, median 60 tokens. T2C:
log-normal, median 22 tokens, five unit words each. Sizes are those of the full-size configs. A clip
keeps a frame for each token and for 85 % of the gaps between them. Shares are for one epoch.

Figures: `s2t`, `t2c`: for `plain`, `bucketed`, `packed` the padding share of `states` and of LLM
(decoder) `positions`; `buckets`.
"""

import argparse
from typing import Any

import numpy as np

from configs.full_size import BUCKETS
from data_pipeline import batches, selection
from echox_jax import config
from echox_jax.training.experiment import ExperimentConfig


def add_options(command: argparse.ArgumentParser) -> None:
  """Adds the options of this measurement."""
  command.add_argument(
    '--examples', type=int, default=6000, help='examples per stage (default %(default)s)'
  )


def measure(options: argparse.Namespace) -> dict[str, Any]:
  """The figures above."""
  rng, count, lengths, budget, longest = np.random.default_rng(0), options.examples, 1024, 256, 1500
  turns, read = rng.lognormal(np.log(5), 0.5, count), rng.normal(12.3, 3.8, count)
  seconds = np.clip(np.where(rng.random(count) < 0.5, turns, read), 1, 29)
  states = np.ceil(50 * (seconds + 0.5)).astype(int)
  said = np.maximum(2, np.rint(4 * seconds * rng.uniform(0.8, 1.2, count))).astype(int)
  kept = np.minimum.reduce(
    [np.full(count, budget), states // 2, said + rng.binomial(said + 1, 0.85)]
  )
  tokens = 20 + np.clip(rng.lognormal(np.log(60), 0.8, count), 5, 600).astype(int)
  text = np.clip(rng.lognormal(np.log(22), 0.7, count), 3, 160).astype(int)
  spoken = 20 + text + np.rint(5 * text * rng.uniform(0.9, 1.1, count)).astype(int)

  def shares(stage, size, rows, positions, **data):
    job = config.build(
      ExperimentConfig,
      dict(
        stage=stage,
        train=dict(batch_size=16),
        data=dict(max_tokens=size, max_states=longest, **data),
        model=dict(adapter=dict(shrink_budget=budget)),
      ),
    )
    plan, used, room, taken, number = batches.make_plan(job, rows), np.zeros(2), np.zeros(2), 0, 0
    while taken < count:
      batch, number = plan[number], number + 1
      examples = [index for row in batch.rows for _, index in row]
      taken += len(examples)
      used += [rows['states'][examples].sum(), positions[examples].sum()]
      room += len(batch.rows) * np.array([batch.bucket * plan.room[batch.bucket][0], lengths])
    share = 1 - used / np.maximum(room, 1)
    return {'positions': share[1]} | ({'states': share[0]} if stage == 's2t' else {})

  dialogues = selection.rows_of(count, tokens=tokens, said=said, states=states)
  speeches = selection.rows_of(count, tokens=spoken)

  def s2t(**data):
    return shares('s2t', lengths - budget + 1, dialogues, tokens - 1 + kept, **data)

  def t2c(**data):
    return shares('t2c', lengths, speeches, spoken, **data)

  return {
    's2t': {
      'plain': s2t(),
      'bucketed': s2t(buckets=BUCKETS),
      'packed': s2t(buckets=BUCKETS, packing=True),
    },
    't2c': {'plain': t2c(), 'packed': t2c(packing=True)},
    'buckets': BUCKETS,
    'examples': count,
  }
