"""Measures what this program costs, piece by piece.

  python -m launch.bench losses [--vocab 128256] [--json FILE]
      Memory and time of CTC + cross-entropy and their gradients, logits in chunks (lean) against whole (plain).
  python -m launch.bench padding [--json FILE]
      Share of padding in batches: plain, in audio-length buckets, packed.
"""

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
import json
import multiprocessing
from pathlib import Path
import time
from typing import Any

from echox_jax import errors, files

BLANK = 5
BUCKETS = (75, 100, 125, 150, 180, 215, 260, 310, 370, 440, 530, 640, 770, 920, 1100, 1300, 1500)  # states; each is a compiled step


def losses(options: argparse.Namespace) -> dict[str, Any]:
  """Lean against plain, each in a process of its own, one after the other.

  As in stage s2t: the CTC head is trained, the LM head is frozen. Both heads are float32.

  Returns:
    `lean_peak_bytes`, `plain_peak_bytes` (what the process grew by, gradients included) and their `ratio`,
    `lean_seconds`, `plain_seconds`, `lean_temp_bytes`, `plain_temp_bytes` (the compiler's count, without gradients),
    `loss_difference` (relative), and the sizes.
  """
  sizes = {name: getattr(options, name) for name in ('vocab', 'rows', 'frames', 'tokens', 'width', 'chunk')}
  lean, plain = (_in_new_process(_measure_losses, sizes | {'chunk': chunk}) for chunk in (options.chunk, 0))
  found = {f'{form}_{name}': values[name] for form, values in (('lean', lean), ('plain', plain))
           for name in ('peak_bytes', 'seconds', 'temp_bytes')}
  difference = abs(lean['loss'] - plain['loss']) / abs(plain['loss'])
  return found | {'ratio': plain['peak_bytes'] / lean['peak_bytes'], 'loss_difference': difference} | sizes


def padding(options: argparse.Namespace) -> dict[str, Any]:
  """Share of padding in batches of a length mix like that of real speech: plain, in buckets, packed.

  Questions: half turns of dialogue (log-normal, median 5 s), half read speech like LibriSpeech's (12.3 s, deviation 3.8 s), four tokens a
  second; answers: log-normal, median 60 tokens; T2C: log-normal, median 22 tokens, five unit words each. Sizes are those of the
  full-size configs. A clip keeps a frame for each token and for 85 % of the gaps between them. Shares are those of an epoch.

  Returns:
    `s2t`, `t2c`: for `plain`, `bucketed`, `packed` the padding share of `states` and of LLM (decoder) `positions`; `buckets`.
  """
  import numpy as np

  from data_pipeline import batches, selection
  from echox_jax import config
  from echox_jax.training.experiment import ExperimentConfig

  rng, count, lengths, budget, longest = np.random.default_rng(0), options.examples, 1024, 256, 1500
  turns, read = rng.lognormal(np.log(5), 0.5, count), rng.normal(12.3, 3.8, count)
  seconds = np.clip(np.where(rng.random(count) < 0.5, turns, read), 1, 29)
  states = np.ceil(50 * (seconds + 0.5)).astype(int)
  said = np.maximum(2, np.rint(4 * seconds * rng.uniform(0.8, 1.2, count))).astype(int)
  kept = np.minimum.reduce([np.full(count, budget), states // 2, said + rng.binomial(said + 1, 0.85)])
  tokens = 20 + np.clip(rng.lognormal(np.log(60), 0.8, count), 5, 600).astype(int)
  text = np.clip(rng.lognormal(np.log(22), 0.7, count), 3, 160).astype(int)
  spoken = 20 + text + np.rint(5 * text * rng.uniform(0.9, 1.1, count)).astype(int)

  def shares(stage, size, rows, positions, **data):
    job = config.build(ExperimentConfig, dict(
        stage=stage, train=dict(batch_size=16), data=dict(max_tokens=size, max_states=longest, **data), model=dict(adapter=dict(shrink_budget=budget))))
    plan, used, room, taken, number = batches.make_plan(job, rows), np.zeros(2), np.zeros(2), 0, 0
    while taken < count:
      batch, number = plan[number], number + 1
      examples = [index for row in batch.rows for _, index in row]
      taken += len(examples)
      used += [sum(rows[i].states for i in examples), positions[examples].sum()]
      room += len(batch.rows) * np.array([batch.bucket * plan.room[batch.bucket][0], lengths])
    share = 1 - used / np.maximum(room, 1)
    return {'positions': share[1]} | ({'states': share[0]} if stage == 's2t' else {})

  ids = lambda n: np.zeros(n, np.int32)
  dialogues = [selection.Row({'input_ids': ids(n), 'ctc_labels': ids(c)}, states=s) for n, c, s in zip(tokens, said, states)]
  speeches = [selection.Row({'input_ids': ids(n)}) for n in spoken]
  s2t = lambda **data: shares('s2t', lengths - budget + 1, dialogues, tokens - 1 + kept, **data)
  t2c = lambda **data: shares('t2c', lengths, speeches, spoken, **data)
  return {'s2t': {'plain': s2t(), 'bucketed': s2t(buckets=BUCKETS), 'packed': s2t(buckets=BUCKETS, packing=True)},
          't2c': {'plain': t2c(), 'packed': t2c(packing=True)}, 'buckets': BUCKETS, 'examples': count}


def _measure_losses(vocab: int, rows: int, frames: int, tokens: int, width: int, chunk: int) -> dict[str, float]:
  """One form, in this process."""
  import jax
  import jax.numpy as jnp

  from echox_jax import chunked

  def loss(trained, head, labels, transcript, lengths):
    speech, states, ctc_head = trained
    ctc, _ = chunked.ctc_loss(speech, ctc_head, lengths, transcript, BLANK, chunk)
    return ctc + chunked.cross_entropy(states, head, labels, chunk).mean

  keys = iter(jax.random.split(jax.random.key(0), 6))
  normal = lambda *shape: 0.05 * jax.random.normal(next(keys), shape)
  ids = lambda length: jax.random.randint(next(keys), (rows, length), BLANK + 1, vocab)
  trained = (normal(rows, frames, width), normal(rows, tokens, width), normal(vocab, width))
  arguments = trained, normal(vocab, width), ids(tokens), ids(frames // 8), jnp.full(rows, frames)
  compiled = jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()
  started = time.monotonic()
  (value, _), peak = _growth(lambda: jax.block_until_ready(compiled(*arguments)))
  return {'loss': float(value), 'peak_bytes': peak, 'seconds': time.monotonic() - started,
          'temp_bytes': compiled.memory_analysis().temp_size_in_bytes}


def _growth(run: Callable[[], Any]) -> tuple[Any, int]:
  """(what `run` returns, bytes that this process held more at most while it ran).

  Raises:
    EchoXError: not on Linux.
  """
  memory = Path('/proc/self')
  if not (memory / 'clear_refs').exists():
    raise errors.EchoXError('Memory is measured through /proc, which this system lacks: run the benchmark on Linux.')
  held = lambda name: 1024 * int((memory / 'status').read_text().split(name + ':')[1].split()[0])
  (memory / 'clear_refs').write_text('5')  # the peak starts anew
  before = held('VmRSS')
  result = run()
  return result, held('VmHWM') - before


def _in_new_process(function: Callable[..., Any], values: dict[str, Any]) -> Any:
  with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
    return pool.submit(function, **values).result()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  commands = parser.add_subparsers(required=True)
  command = commands.add_parser('losses', description=losses.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  command.set_defaults(measure=losses)
  for name, value, meaning in (
      ('vocab', 128256, 'rows of both heads'), ('rows', 3, 'batch size'), ('frames', 750, 'CTC frames a row'),
      ('tokens', 1024, 'text positions a row'), ('width', 512, 'width of both heads'), ('chunk', 48, 'positions at a time')):
    command.add_argument(f'--{name}', type=int, default=value, help=f'{meaning} (default {value})')
  command = commands.add_parser('padding', description=padding.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  command.set_defaults(measure=padding)
  command.add_argument('--examples', type=int, default=6000, help='of each stage (default 6000)')
  for command in commands.choices.values():
    command.add_argument('--json', type=Path, help='also writes the figures to this file')
  options = parser.parse_args()
  figures = options.measure(options)
  print(json.dumps(figures, indent=2))
  if options.json:
    files.atomic_write_json(options.json, figures)


if __name__ == '__main__':
  errors.run_cli(main)
