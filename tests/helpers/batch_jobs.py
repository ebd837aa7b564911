"""Questions and answers that tests of batches read."""

import dataclasses

import numpy as np

from data_pipeline import dataset
from data_pipeline.schema import Example, Turn
from echox_jax import config, tokenizer
from echox_jax.prompts import NANO_IDS as ids
from echox_jax.training.experiment import ExperimentConfig

V, UNIT_WORDS = 300, 7
FACTS = [
  (f'What is {a} plus {b}{", please" * (a == 4)}?', f'{"I say " * (b == 4)}it is {a + b}.')
  for a in range(5)
  for b in range(5)
]


def write_sets(folder):
  """Questions asked by two voices, answers with units and unit words, raw and precomputed."""
  rng = np.random.default_rng(0)
  tokenizer.train_tokenizer(
    [t for fact in FACTS for t in fact], folder / 'precomputed' / 'tokenizer.model', V
  )

  def questions(raw):
    for i, (question, answer) in enumerate(FACTS):
      for voice in 'ab':
        frames = 10 + i
        speech = (
          dict(audio=np.full(frames * 320, i + 1, np.int16))
          if raw
          else dict(states=np.full((frames, 4), i, np.float16) + np.arange(4, dtype=np.float16))
        )
        yield Example(
          f'{i}{voice}',
          (Turn('user', question, speaker=voice, **speech), Turn('assistant', answer)),
        )

  def answers():
    for i, (_, answer) in enumerate(FACTS):
      frames = 5 + 8 * i
      units = np.repeat(rng.permutation(frames), rng.integers(1, 4, frames))[:frames].astype(
        np.int32
      )
      yield Example(
        f'{i}',
        (
          Turn(
            'assistant',
            answer,
            units=units,
            unit_words=np.arange(i % UNIT_WORDS + 1, dtype=np.int32),
            audio=np.repeat(units, 320).astype(np.int16),
          ),
        ),
      )

  dataset.write_dataset(folder / 'data', 'questions', {'train': questions(True)})
  dataset.write_dataset(folder / 'precomputed', 'questions', {'train': questions(False)})
  dataset.write_dataset(folder / 'precomputed', 'answers', {'train': answers()})


def experiment(stage, batch_size=5, seed=0, cached_states=True, **data):
  sets = ('answers/train',) if stage in ('t2c', 'vocoder') else ('questions/train',)
  return config.build(
    ExperimentConfig,
    dict(
      stage=stage,
      seed=seed,
      train=dict(batch_size=batch_size),
      data=dict(
        dict(
          sets=sets,
          cached_states=cached_states,
          max_tokens=64,
          max_ctc_labels=40,
          max_states=60,
          segment_frames=20,
        ),
        **data,
      ),
      model=dict(
        special_ids=dataclasses.asdict(ids),
        llm=dict(vocab_size=V),
        whisper=dict(hidden_size=4),
        audio_padding_seconds=0.1,
      ),
    ),
  )


def take(iterator, n):
  return [next(iterator) for _ in range(n)]


def same(a, b):
  assert a.keys() == b.keys()
  for name in a:
    assert a[name].dtype == b[name].dtype
    np.testing.assert_array_equal(a[name], b[name])
