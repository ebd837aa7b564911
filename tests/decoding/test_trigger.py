"""The cut rule: the whole-answer form and the streaming form are one rule."""

import functools
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echox_jax.config import StreamingConfig
from echox_jax.decoding import trigger

ROOM = 48
RULES = (
  StreamingConfig(min_tokens=12, min_tokens_above_threshold=4),
  StreamingConfig(look_ahead=2, peak_window=4, min_tokens=9, min_tokens_above_threshold=3),
  StreamingConfig(
    look_ahead=4, peak_window=1, min_tokens=6, min_tokens_above_threshold=0, threshold=0.0
  ),
  StreamingConfig(look_ahead=0, peak_window=3, min_tokens=5, min_tokens_above_threshold=2),
)
CUT = {rule: jax.jit(lambda s, n, rule=rule: trigger.cut_slices(s, n, rule)) for rule in RULES}
# Few different values, so that ties are common.
SCORES = st.lists(
  st.sampled_from([-0.5, 0.0, 0.1, 0.2, 0.3, 0.9]) | st.floats(-1, 1, width=32), max_size=ROOM
)


@functools.cache
def stream(rule):
  """Scores float32[ROOM] and their number -> where `cut_now` ends slices, as the tokens come."""

  def step(row, start, count):
    stop = trigger.cut_now(row[None], count[None], start[None], rule)[0]
    return jnp.where(stop > 0, stop, start), stop

  return jax.jit(
    lambda row: jax.lax.scan(
      functools.partial(step, row), jnp.int32(0), jnp.arange(1, ROOM + 1, dtype=jnp.int32)
    )[1]
  )


def streamed(scores, rule):
  row = np.pad(np.float32(scores), (0, ROOM - len(scores)))
  stops = [int(stop) for stop in np.asarray(stream(rule)(row))[: len(scores)] if stop]
  ends = sorted({0, *stops, len(scores)})
  return list(itertools.pairwise(ends))


@settings(max_examples=60, deadline=None)
@given(SCORES, SCORES, st.sampled_from(RULES))
def test_both_forms_agree(first, second, rule):
  rows = np.array(
    [np.pad(np.float32(s), (0, ROOM - len(s)), constant_values=0.95) for s in (first, second)]
  )
  numbers = np.asarray(CUT[rule](rows, jnp.array([len(first), len(second)])))
  for scores, number in zip((first, second), numbers):
    slices = streamed(scores, rule)
    # contiguous, nothing left out
    assert [a for a, _ in slices] == ([0] + [b for _, b in slices])[: len(slices)]
    assert (slices[-1][1] if slices else 0) == len(scores)
    expected = [i for i, (a, b) in enumerate(slices) for _ in range(b - a)]
    np.testing.assert_array_equal(number[: len(scores)], expected)


def test_rule():
  rule = StreamingConfig(
    look_ahead=2, peak_window=2, min_tokens=6, min_tokens_above_threshold=3, threshold=0.1
  )
  scores = [0, 0.9, 0, 0, 0.5, 0, 0, -0.1, -0.2, -0.3, 0.05, 0.04, 0, 0, 0.9]
  # The peak at 1 comes too early; 4 is late enough above the threshold; 10 is late enough below it;
  # the peak at the very end is never judged, so that the rest is one slice.
  assert streamed(scores, rule) == [(0, 5), (5, 15)]
  assert streamed([*scores[:10], -0.4, 0.05, *scores[11:]], rule) == [(0, 5), (5, 12), (12, 16)]
  assert streamed([0.0] * 20, rule) == [(0, 7), (7, 14), (14, 20)]


def test_short_answers_are_one_slice():
  assert streamed([0.9] * 3, RULES[0]) == [(0, 3)]
  assert streamed([], RULES[0]) == []


@pytest.mark.parametrize('scale', [1.0, 1e-3, 100.0])
def test_scores_are_cosines(scale):
  hidden = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
  row = hidden[1, 2]
  found = trigger.scores(jnp.asarray(hidden * scale), jnp.asarray(row))
  assert found.shape == (2, 3) and np.abs(found).max() <= 1 + 1e-6
  np.testing.assert_allclose(found[1, 2], 1.0, rtol=1e-6)
