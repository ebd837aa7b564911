"""A tiny precompute job, and one process of it as a program:
`python -m tests.helpers.precompute_jobs JSON`.

Keys: `workdir`; `processes`, `process`, `port` where there are several; `devices` of the process;
`experiment`: fields of the config's `precompute`; `begun` (see `kills`), where it is to be killed.
"""

import dataclasses
import hashlib
import json
import sys

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline import dataset, language_shards, precompute
from data_pipeline.schema import Example, Turn
from echox_jax import config, storage
from echox_jax.config import WhisperConfig
from echox_jax.models import whisper
from echox_jax.parallel import distributed
from echox_jax.prompts import NANO_IDS
from echox_jax.training.experiment import ExperimentConfig
from echox_jax.units import extract
from launch import cli
from tests.helpers import kills, words

SMALL = WhisperConfig(
  hidden_size=16, intermediate_size=32, num_layers=2, num_heads=2, max_positions=120
)
WORDS = words.COLOURS[:12]


def make_encoders():
  """Random ones."""
  mel = jnp.zeros((1, 8, SMALL.num_mel_bins))
  params = nn.meta.unbox(jax.jit(whisper.WhisperEncoder(SMALL).init)(jax.random.key(0), mel))[
    'params'
  ]
  params = jax.tree.map(lambda x: 10 * x, params)  # states that differ
  units, speech = (extract.whisper_encoder(params, SMALL, layer, 0.1) for layer in (1, 2))
  return precompute.Encoders(lambda: units, lambda: speech)  # the same each time: compiled once


def write_raw(folder):
  """8 spoken answers and 10 spoken questions."""
  rng = np.random.default_rng(0)
  sound = lambda: (3000 * np.sin(np.cumsum(rng.uniform(0, 1, rng.integers(9000, 14000))))).astype(
    np.int16
  )
  answer = lambda i: f'The sky over the {WORDS[i]} house is {WORDS[-i]}.'
  spoken = lambda i: Example(f'a{i}', (Turn('assistant', answer(i), audio=sound()),))
  asked = lambda i: Example(
    f'q{i}',
    (
      Turn('user', f'Which sky is over the {WORDS[i]} house?', audio=sound()),
      Turn('assistant', answer(i)),
    ),
  )
  dataset.write_dataset(
    folder, 'answers', {'train': map(spoken, range(6)), 'holdout': map(spoken, range(6, 8))}
  )
  dataset.write_dataset(
    folder, 'questions', {'train': map(asked, range(8)), 'test': map(asked, range(8, 10))}
  )


def experiment(stage='t2c', units=None, **jobs):
  """The config; `units` and `jobs`: fields of its parts."""
  return config.build(
    ExperimentConfig,
    dict(
      stage=stage,
      tokenizer=dict(vocab_size=300),
      train=dict(batch_size=4),
      data=dict(
        sets=('answers/train',) if stage in ('t2c', 'vocoder') else ('questions/train',),
        max_tokens=160,
        max_states=80,
        segment_frames=20,
      ),
      precompute=dict(
        dict(
          kmeans_sets=('answers/train',),
          language_sets=('answers/train',),
          unit_sets=('answers/train', 'answers/holdout'),
          batch_seconds=2.0,
          fit=dict(kmeans_iterations=4),
        ),
        **jobs,
      ),
      model=dict(
        special_ids=dataclasses.asdict(NANO_IDS),
        audio_padding_seconds=0.1,
        llm=dict(vocab_size=300),
        units=dict(
          dict(layer=1, num_units=12, vocab_size=30, padding_seconds=0.1), **(units or {})
        ),
      ),
    ),
  )


def products(workdir):
  """sha256 of every file that is left, but for notes and timings."""
  folder = workdir / 'precomputed'
  return {
    path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in storage.tree(folder)
    if 'notes' not in path.parts and path.name != precompute.REPORT
  }


def count_few_parts_at_a_time(setattr=setattr):
  """Makes the counts of the unit language lie in several shards, small as the job is."""
  setattr(language_shards, '_PARTS_A_SHARD', 2)


def main() -> None:
  options = json.loads(sys.argv[1])
  jax.config.update('jax_num_cpu_devices', options.get('devices', 1))
  if options.get('processes', 1) > 1:
    distributed.initialise(
      'auto',
      f'localhost:{options["port"]}',
      options['processes'],
      options['process'],
      timeout_seconds=200,
    )
  count_few_parts_at_a_time()
  if 'begun' in options:
    kills.announce(options)
  precompute.run(
    experiment(**options['experiment']), options['workdir'], make_encoders(), progress=False
  )


if __name__ == '__main__':
  cli.run(main, distributed.leave)
