"""What launch.voice takes: a tiny model that speaks, another speaker's recordings, questions."""

import dataclasses

from flax import linen as nn
import jax
import numpy as np
import soundfile

from configs import echox_nano, echox_tiny
from data_pipeline import dataset
from data_pipeline.schema import Example, Turn
from echox_jax import config, model_folder
from echox_jax.conversion import whisper_ct2
from echox_jax.models import params as params_lib
from echox_jax.models import trees
from echox_jax.tokenizer import train_tokenizer
from echox_jax.training.experiment import ExperimentConfig
from echox_jax.units.unit_language import PlainModel, UnitLanguage
from tests.helpers.words import COLOURS, PLACES

GROUPS = (*(name for name in model_folder.ANSWERING if name != 'whisper'), 't2c')
SENTENCES = [f'A {COLOURS[i % 14]} tower stands near the {PLACES[3 * i % 14]}.' for i in range(24)]


def write_model(folder, groups=None, **changes):
  """A model folder with random parameters and the packaged Whisper; `groups`: only these of its
  parts; `changes`: fields of its config.
  """
  tiny = config.build(ExperimentConfig, echox_tiny.get_config('echo').to_dict())
  cfg = dataclasses.replace(
    tiny.model, units=dataclasses.replace(tiny.model.units, language='plain'), **changes
  )
  params = nn.meta.unbox(
    jax.jit(lambda key: params_lib.init_groups(key, cfg, GROUPS))(jax.random.key(0))
  )
  flat = trees.flatten({'whisper': whisper_ct2.packaged_encoder('tiny.en'), **params})
  flat = {k: np.asarray(v) for k, v in flat.items() if not groups or k.split('/')[0] in groups}
  tokenizer = folder.with_name(f'{folder.name}.tokenizer')
  train_tokenizer([' '.join(SENTENCES), 'What stands there?'] * 3, tokenizer, 320)
  units = cfg.units.num_units
  with model_folder.writing(folder) as beside:
    model_folder.write_params(
      beside,
      {path: (value.shape, value.dtype) for path, value in flat.items()},
      ((path, None, value) for path, value in flat.items()),
    )
    model_folder.write_rest(
      beside,
      cfg,
      dataclasses.replace(tiny.engine, max_unit_words=96),
      {
        'tokenizer.model': tokenizer,
        model_folder.KMEANS: echox_nano.PRETRAINED / model_folder.KMEANS,
      },
      UnitLanguage('plain', units, PlainModel(tuple((unit,) for unit in range(units)))),
    )
  return folder


def sound(seconds: float, rate: int, seed: int) -> np.ndarray:
  """float[samples] that sounds like vowels."""
  rng, at = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
  tones = sum(np.sin(2 * np.pi * at * rng.uniform(100, 3000)) for _ in range(5))
  return 0.1 * tones + rng.normal(0, 0.01, len(at))


def write_recordings(folder, texts=SENTENCES):
  """Recordings of 1.5 s at 22,050 Hz, each with its text beside it; '' = without."""
  folder.mkdir()
  for i, text in enumerate(texts):
    soundfile.write(folder / f'{i:02}.wav', sound(1.5, 22050, i), 22050)
    if text:
      (folder / f'{i:02}.txt').write_text(text)
  return folder


def write_questions(folder, splits=('train', 'test')):
  """A folder of data sets with 8 questions a split."""

  def asked(split, i):
    wave = (30000 * sound(1.0, 16000, 100 + i)).astype(np.int16)
    question = Turn('user', f'What stands near the {PLACES[i]}?', audio=wave, speaker='x')
    answer = Turn('assistant', SENTENCES[i], references=(COLOURS[i],))
    return Example(f'{split}{i}', (question, answer))

  rows = {split: [asked(split, i) for i in range(8)] for split in splits}
  dataset.write_dataset(folder, 'questions', rows)
  return folder
