"""Time of an answer, of its parts, and of a training step, at fixed sizes and with random weights.

One process, warm: a spoken question of 10 s is answered again and again. Weights are random, and a
few of them are set so that the work does not depend on chance: the LLM never says EOT, the echo
decoder says unit words alone, each unit word is two units, and each unit lasts two frames.

Figures in seconds, medians of `--runs`: `first_text_s`, `first_sound_s`, `last_text_s` and
`total_s` of a spoken answer with `audio_s` of sound, `real_time_factor`; `text_only_s` and
`text_only_sampled_s`, the question and all tokens without speech; `encoder_s`, encoder and adapter
on the question; `t2c_s`, the unit words of a slice; `vocoder_s`, the sound of a slice;
`train_step_s`, loss and gradients of stage s2t for four clips of 10 s; `forward_s`, its loss alone.
`compile_s` is apart from all these. `default_budgets` holds `first_sound_s`, `last_text_s` and
`total_s` of the same answer with the budgets of a config that names none. `tokens_per_s` is of one
written question that is answered in writing, `tokens_per_s_16` of 16 at once.

`cpu` and `cores` name the machine. `gflops` and `gbytes_per_s` are what it does at best in the same
run (a product of two matrices, the sum of an array), and `share_of_limit` is each part's share of
that. With transformers and torch installed, `peer` has `text_only_s` and `encoder_s` of the same
sizes there, and HuBERT base on 10 s here and there. With `--checkpoint`, `first_start_s` and
`second_start_s` are what `launch.respond` takes with that model, in a process of its own, until it
is ready; the first time nothing is compiled yet.
"""

import argparse
import dataclasses
import functools
import importlib.util
from pathlib import Path
import sys
from typing import Any

import numpy as np

from echox_jax import config as config_lib
from echox_jax import rates
from echox_jax.config import EngineConfig
from echox_jax.inference.answering import Request
from echox_jax.inference.chat import Model
from echox_jax.inference.engine import Engine
from echox_jax.inference.events import Done, Sound, TextPiece
from echox_jax.training.experiment import ExperimentConfig
from launch import model_options
from launch.bench import respond_model, respond_peer, respond_start, respond_training, timing

_SECONDS = 10.0  # of the question
_CHIEF = ('first_sound_s', 'last_text_s', 'total_s')


def add_options(command: argparse.ArgumentParser) -> None:
  """Adds the options of this measurement."""
  add_work_options(command)
  command.add_argument(
    '--checkpoint',
    type=model_options.folder,
    help='also time the start of launch.respond with this model folder',
  )


def add_work_options(command: argparse.ArgumentParser) -> None:
  """Adds the options that say what is done, and how often."""
  command.add_argument(
    '--config', type=Path, default=Path('configs/bench_mid.py'), help='default %(default)s'
  )
  command.add_argument(
    '--runs', type=int, default=5, help='measured runs of each kind (default %(default)s)'
  )


def measure(options: argparse.Namespace) -> dict[str, Any]:
  """The figures above."""
  job, runs = read_job(options.config), options.runs
  _say('limits of this machine')
  limits = timing.machine_limits()
  _say('random weights')
  model = respond_model.make(job)
  wave = question()
  _say('compiling')
  engine = Engine(model)
  compile_s = engine.warm_up([Request(wave)])
  _say('answers')
  kinds = {
    'spoken': Request(wave),
    'text_only_s': Request(wave, speaks=False),
    'text_only_sampled_s': Request(wave, speaks=False, temperature=0.2, top_p=0.9),
  }
  rows: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
  for _ in range(runs + 1):  # the first is not counted
    for kind, request in kinds.items():
      rows[kind].append(answer(engine, request))
  figures = _medians(rows.pop('spoken')) | {
    kind: _medians(own)['last_text_s'] for kind, own in rows.items()
  }
  _say('parts')
  figures |= {
    name: timing.median(run, runs) for name, run in respond_model.parts(engine, wave).items()
  }
  figures |= respond_model.shares(figures, job, limits)
  _say('training step')
  figures |= {name: timing.median(step, runs) for name, step in respond_training.steps(job).items()}
  _say('default budgets')
  figures['default_budgets'], more = _default_budgets(model, wave, runs)
  _say('16 conversations')
  for name, number in (('tokens_per_s', 1), ('tokens_per_s_16', 16)):
    figures[name], seconds = _tokens_per_s(model, number, runs)
    more += seconds
  figures['real_time_factor'] = figures['total_s'] / figures['audio_s']
  figures['compile_s'] = compile_s + more
  if options.checkpoint:
    _say('start')
    figures |= respond_start.measure(options.checkpoint, wave[: 2 * rates.SAMPLE_RATE], runs)
  if respond_peer.is_installed():
    _say('peer')
    figures['peer'] = respond_peer.measure(job, runs)
  return figures | limits | timing.machine() | {'runs': runs, 'config': str(options.config)}


def question() -> np.ndarray:
  """Noise, float32[samples] at 16 kHz."""
  samples = round(rates.SAMPLE_RATE * _SECONDS)
  return np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)


def _default_budgets(model: Model, wave: np.ndarray, runs: int) -> tuple[dict[str, float], float]:
  """Figures of an answer as long as before, and the seconds of compiling."""
  own = model.engine
  budgets = dataclasses.replace(
    EngineConfig(),
    words_per_token=own.words_per_token,
    loop_times=own.loop_times,
    retry_temperature=own.retry_temperature,
  )
  engine = Engine(dataclasses.replace(model, engine=budgets))
  request = Request(wave, max_tokens=own.max_new_tokens)
  seconds = engine.warm_up([request])
  found = _medians([answer(engine, request) for _ in range(runs + 1)])
  return {name: found[name] for name in _CHIEF}, seconds


def _tokens_per_s(model: Model, number: int, runs: int) -> tuple[float, float]:
  """Tokens a second of written questions that are answered together, and seconds of compiling."""
  budgets = dataclasses.replace(model.engine, conversations=number)
  engine = Engine(dataclasses.replace(model, engine=budgets), hears=False, speaks=False)
  requests = [Request(text='5 6 7')] * number
  seconds = engine.warm_up(requests)
  run = functools.partial(engine.answers, requests)
  return number * budgets.max_new_tokens / timing.median(run, runs), seconds


def answer(engine: Engine, request: Request) -> dict[str, float]:
  """Seconds of one answer, and of the sound in it."""
  first: dict[type, Any] = {}
  for event in engine.stream(engine.ask(request)):
    first.setdefault(type(event), event)
  done = first[Done]
  return {
    'first_text_s': first[TextPiece].at,
    'first_sound_s': first[Sound].at if Sound in first else np.nan,
    'last_text_s': done.token_times[-1],
    'total_s': done.finished_at,
    'audio_s': len(done.waveform) / rates.SAMPLE_RATE,
  }


def _medians(rows: list[dict[str, float]]) -> dict[str, float]:
  """Medians of all rows but the first."""
  return {name: float(np.median([row[name] for row in rows[1:]])) for name in rows[0]}


def _say(what: str) -> None:
  print(f'bench respond: {what} ...', file=sys.stderr, flush=True)


def read_job(file: Path) -> ExperimentConfig:
  """The job of a config file."""
  spec = importlib.util.spec_from_file_location('bench_config', file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return config_lib.build(ExperimentConfig, module.get_config().to_dict())
