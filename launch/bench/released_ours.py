"""The rows of `launch.bench released`, done by this library. Each gives seconds by name."""

from collections.abc import Callable
import functools
import time
from typing import Any

import jax
import numpy as np

from echox_jax.inference.answering import Request
from echox_jax.inference.engine import Engine
from echox_jax.models.whisper import WhisperEncoder
from echox_jax.training.experiment import ExperimentConfig
from launch.bench import respond, respond_model, respond_training, timing
from launch.bench.interleaved import Program

SOUND_FRAMES = 1000  # of row `vocoder`: 20 s
PRODUCTS = 10  # of row `product`


def make(job: ExperimentConfig) -> dict[str, Program]:
  """Builds everything, and compiles the programs that answer."""
  engine, wave = Engine(respond_model.make(job)), respond.question()
  engine.warm_up([Request(wave)])
  parts = respond_model.parts(engine, wave)
  steps = respond_training.steps(job)
  written = functools.partial(Request, wave, speaks=False)
  product = timing.product()
  return {
    'product': _timed('product_s', lambda: [product() for _ in range(PRODUCTS)]),
    'train_step': _timed('train_step_s', steps['train_step_s']),
    'encoder': _timed('encoder_s', _encoder(engine, job.train.batch_size)),
    'text_only': _text_only('text_only_s', engine, written()),
    'text_only_sampled': _text_only(
      'text_only_sampled_s', engine, written(temperature=0.2, top_p=0.9)
    ),
    't2c': _timed('t2c_s', parts['t2c_s']),
    'vocoder': _timed('vocoder_s', _vocoder(engine)),
    'answer': functools.partial(respond.answer, engine, Request(wave)),
  }


def _timed(name: str, run: Callable[[], Any]) -> Program:
  def timed() -> dict[str, float]:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return {name: time.perf_counter() - start}

  return timed


def _text_only(name: str, engine: Engine, request: Request) -> Program:
  return lambda: {name: respond.answer(engine, request)['last_text_s']}


def _encoder(engine: Engine, clips: int) -> Callable[[], Any]:
  cfg, params = engine.config.whisper, engine.params['whisper']
  shape = (clips, 2 * cfg.max_positions, cfg.num_mel_bins)
  mel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  run = jax.jit(lambda params, mel: WhisperEncoder(cfg).apply({'params': params}, mel))
  return lambda: run(params, mel)


def _vocoder(engine: Engine) -> Callable[[], Any]:
  """Durations of the units, then their sound."""
  programs, params = engine.programs, engine.params
  number = engine.config.vocoder.num_units
  units = np.random.default_rng(0).integers(0, number, (1, SOUND_FRAMES // respond_model.FRAMES))
  units = units.astype(np.int32)
  every = np.ones(SOUND_FRAMES, bool)[None]

  def run() -> Any:
    lasting = np.asarray(programs.durations(params, units, np.ones_like(units, bool)))
    return programs.wave(params, np.repeat(units[0], lasting[0])[None], every)

  return run
