"""Time of an answer, and of its parts, at fixed sizes and with random weights.

One process, warm: a spoken question of 10 s is answered again and again. Weights are random, and a
few of them are set so that the work does not depend on chance: the LLM never says EOT, the echo
decoder says unit words alone, each unit word is two units, and each unit lasts two frames.

Figures, in seconds, medians of `--runs`: `first_text_s`, `first_sound_s`, `last_text_s`, `total_s`
of a spoken answer, `audio_s` of sound, `real_time_factor`; `text_only_s` and `text_only_sampled_s`,
the question and all tokens without speech; `encoder_s`, the speech encoder on the question;
`t2c_s`, a slice in unit words; `vocoder_s`, all frames of the budget as sound; `compile_s`, apart
from all these. `default_budgets` holds the same of an answer with the budgets that a config has
where it names none. `gflops` and `gbytes_per_s` are what this machine does at best in the same run
(a product of two matrices, the sum of an array); `share_of_limit` compares.
"""

import argparse
import dataclasses
import importlib.util
from pathlib import Path
import time
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from echox_jax import config as config_lib
from echox_jax.config import EngineConfig
from echox_jax.inference.answering import Request
from echox_jax.inference.chat import Model
from echox_jax.inference.engine import Engine
from echox_jax.inference.events import Done, Sound, TextPiece
from echox_jax.models import params as params_lib
from echox_jax.training.experiment import ExperimentConfig
from echox_jax.units.unit_language import PlainModel, UnitLanguage

_GROUPS = (
  'whisper',
  'adapter',
  'llm',
  'unit_text_embedding',
  'echo',
  'denoising_adapter',
  'vocoder',
)
_SECONDS = 10.0  # of the question
_FRAMES = 2  # of a unit
_UNITS = 2  # of a unit word


def add_options(command: argparse.ArgumentParser) -> None:
  """Adds the options of this measurement."""
  command.add_argument(
    '--config', type=Path, default=Path('configs/bench_mid.py'), help='default %(default)s'
  )
  command.add_argument(
    '--runs', type=int, default=5, help='measured answers of each kind (default %(default)s)'
  )


class Numbers:
  """A tokenizer whose texts are ids."""

  def encode(self, text: str) -> list[int]:
    return [int(word) for word in text.split()]

  def decode(self, ids: Any) -> str:
    return ' '.join(map(str, ids))


def measure(options: argparse.Namespace) -> dict[str, Any]:
  """The figures above."""
  job = _job(options.config)
  model = random_model(job)
  wave = np.random.default_rng(0).normal(0, 0.1, round(16000 * _SECONDS)).astype(np.float32)
  limits = _limits()
  engine = Engine(model)
  reader = Engine(model, speaks=False)
  compile_s = engine.warm_up(written=False, both=False, turns=False)
  compile_s += reader.warm_up(written=False, both=False, turns=False)
  answers, plain, sampled = [], [], []
  for _ in range(options.runs + 1):
    answers.append(_timed(engine, Request(wave)))
    plain.append(_timed(reader, Request(wave))['total_s'])
    sampled.append(_timed(reader, Request(wave, temperature=0.2, top_p=0.9))['total_s'])
  own = model.engine
  default = EngineConfig(max_new_tokens=own.max_new_tokens, max_unit_words=own.max_unit_words)
  ladder = Engine(dataclasses.replace(model, engine=default))
  compile_s += ladder.warm_up(written=False, both=False, turns=False)
  defaults = [_timed(ladder, Request(wave)) for _ in range(options.runs + 1)]
  figures = _medians(answers) | {
    'text_only_s': float(np.median(plain[1:])),
    'text_only_sampled_s': float(np.median(sampled[1:])),
    **engine_parts(engine, wave, options.runs),
    'compile_s': compile_s,
    'default_budgets': _medians(defaults),
    **limits,
  }
  figures['real_time_factor'] = figures['total_s'] / figures['audio_s']
  return figures | {'runs': options.runs, 'config': str(options.config)}


def random_model(job: ExperimentConfig) -> Model:
  """A model of random weights that never ends by itself; see the top of this file."""
  cfg = job.model
  make = jax.jit(lambda key: nn.meta.unbox(params_lib.init_groups(key, cfg, _GROUPS)))
  params = jax.tree.map(np.array, make(jax.random.key(0)))
  params['llm']['lm_head']['embedding'][cfg.special_ids.eot] = 0.0
  params['echo']['lm_head']['embedding'][: cfg.llm.vocab_size] = 0.0
  proj = params['vocoder']['duration_predictor']['proj']
  proj['kernel'][:], proj['bias'][:] = 0.0, np.log(1.0 + _FRAMES)
  rng = np.random.default_rng(0)
  spelt = rng.integers(0, cfg.units.num_units, (cfg.units.vocab_size, _UNITS)).tolist()
  words = tuple(map(tuple, spelt))
  language = UnitLanguage('plain', cfg.units.num_units, PlainModel(words))
  return Model(cfg, params, job.engine, Numbers(), language)


def engine_parts(engine: Engine, wave: np.ndarray, runs: int) -> dict[str, float]:
  """Encoder, echo decoder and vocoder alone, with the engine's own programs."""
  programs, params = engine._programs, engine.params
  cfg, budgets = engine.config, engine.budgets
  lengths = np.asarray([len(wave)], np.int32)

  def encode():
    return programs.hear(params, wave[None], lengths)

  def t2c():
    state = engine._state
    said = programs.begin_slice(
      params,
      programs.speaking(),
      np.int32(0),
      state.states,
      np.int32(0),
      np.int32(0),
      np.int32(cfg.streaming.max_slice_tokens),
    )
    active = np.arange(said.going.shape[0]) == 0
    return programs.speak_chunk(params, said, engine._spelling, active, np.int32(10**6))[1]

  frames = np.zeros((1, budgets.max_frames), np.int32)

  def vocode():
    return programs.wave(params, frames, frames == 0)

  found = {}
  for name, run in (('encoder_s', encode), ('t2c_s', t2c), ('vocoder_s', vocode)):
    times = []
    for _ in range(runs + 1):
      start = time.perf_counter()
      jax.block_until_ready(run())
      times.append(time.perf_counter() - start)
    found[name] = float(np.median(times[1:]))
  return found | {'vocoder_audio_s': budgets.max_frames / 50}


def _timed(engine: Engine, request: Request) -> dict[str, float]:
  """Seconds of one answer."""
  first = {}
  for event in engine.answers([request])[0]:
    first.setdefault(type(event), event)
  done = first[Done]
  return {
    'first_text_s': first[TextPiece].at,
    'first_sound_s': first[Sound].at if Sound in first else np.nan,
    'last_text_s': done.token_times[-1],
    'total_s': done.finished_at,
    'audio_s': len(done.waveform) / 16000,
  }


def _medians(rows: list[dict[str, float]]) -> dict[str, float]:
  """Medians of all rows but the first."""
  return {name: float(np.median([row[name] for row in rows[1:]])) for name in rows[0]}


def _limits() -> dict[str, float]:
  """What this machine does at best."""
  size = 2048
  matrix = jnp.ones((size, size))
  large = jnp.ones(1 << 27)  # 512 MB
  product, total = jax.jit(jnp.matmul), jax.jit(jnp.sum)

  def best(run):
    times = []
    for _ in range(5):
      start = time.perf_counter()
      jax.block_until_ready(run())
      times.append(time.perf_counter() - start)
    return min(times)

  return {
    'gflops': 2 * size**3 / best(lambda: product(matrix, matrix)) / 1e9,
    'gbytes_per_s': large.nbytes / best(lambda: total(large)) / 1e9,
  }


def _job(file: Path) -> ExperimentConfig:
  spec = importlib.util.spec_from_file_location('bench_config', file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return config_lib.build(ExperimentConfig, module.get_config().to_dict())
