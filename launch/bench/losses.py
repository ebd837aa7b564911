"""Memory and time of CTC + cross-entropy and their gradients, with logits in chunks (lean) and
whole (plain).

The two forms run one after the other, each in its own process. As in stage s2t, the CTC head is
trained and the LM head is frozen. Both heads are float32.

Figures: `lean_peak_bytes`, `plain_peak_bytes` (growth of the process, gradients included) and their
`ratio`, `lean_seconds`, `plain_seconds`, `lean_temp_bytes`, `plain_temp_bytes` (the compiler's
count, without gradients), `loss_difference` (relative), and the sizes.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
import time
from typing import Any

from echox_jax import errors
from launch.bench.process import in_new_process

BLANK = 5
SIZES = {
  'vocab': (128256, 'rows of both heads'),
  'rows': (3, 'batch size'),
  'frames': (750, 'CTC frames per row'),
  'tokens': (1024, 'text positions per row'),
  'width': (512, 'width of both heads'),
  'chunk': (48, 'positions per chunk'),
}


def add_options(command: argparse.ArgumentParser) -> None:
  """Adds the options of this measurement."""
  for name, (value, meaning) in SIZES.items():
    command.add_argument(f'--{name}', type=int, default=value, help=f'{meaning} (default {value})')


def measure(options: argparse.Namespace) -> dict[str, Any]:
  """The figures above."""
  sizes = {name: getattr(options, name) for name in SIZES}
  lean, plain = (
    in_new_process(_measure, **sizes | {'chunk': chunk}) for chunk in (options.chunk, 0)
  )
  found = {
    f'{form}_{name}': values[name]
    for form, values in (('lean', lean), ('plain', plain))
    for name in ('peak_bytes', 'seconds', 'temp_bytes')
  }
  difference = abs(lean['loss'] - plain['loss']) / abs(plain['loss'])
  return (
    found
    | {'ratio': plain['peak_bytes'] / lean['peak_bytes'], 'loss_difference': difference}
    | sizes
  )


def _measure(
  vocab: int, rows: int, frames: int, tokens: int, width: int, chunk: int
) -> dict[str, float]:
  """Measures one form in this process."""
  import jax
  import jax.numpy as jnp

  from echox_jax.models.adapter import CtcTable
  from echox_jax.training import chunked_losses

  def loss(trained, head, labels, transcript, lengths):
    speech, states, ctc_head = trained
    ctc, _ = chunked_losses.ctc_loss(speech, CtcTable(ctc_head), lengths, transcript, BLANK, chunk)
    return ctc + chunked_losses.cross_entropy(states, head, labels, chunk).mean

  keys = iter(jax.random.split(jax.random.key(0), 6))

  def normal(*shape):
    return 0.05 * jax.random.normal(next(keys), shape)

  def ids(length):
    return jax.random.randint(next(keys), (rows, length), BLANK + 1, vocab)

  trained = (normal(rows, frames, width), normal(rows, tokens, width), normal(vocab, width))
  arguments = trained, normal(vocab, width), ids(tokens), ids(frames // 8), jnp.full(rows, frames)
  compiled = jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()
  started = time.monotonic()
  (value, _), peak = _growth(lambda: jax.block_until_ready(compiled(*arguments)))
  return {
    'loss': float(value),
    'peak_bytes': peak,
    'seconds': time.monotonic() - started,
    'temp_bytes': compiled.memory_analysis().temp_size_in_bytes,
  }


def _growth(run: Callable[[], Any]) -> tuple[Any, int]:
  """(the result of `run`, the most bytes that this process grew by while it ran).

  Raises:
    EchoXError: the system is not Linux.
  """
  memory = Path('/proc/self')
  if not (memory / 'clear_refs').exists():
    raise errors.EchoXError(
      'Memory is measured through /proc, which this system lacks: run the benchmark on Linux.'
    )

  def held(name):
    return 1024 * int((memory / 'status').read_text().split(name + ':')[1].split()[0])

  (memory / 'clear_refs').write_text('5')  # resets the peak
  before = held('VmRSS')
  result = run()
  return result, held('VmHWM') - before
