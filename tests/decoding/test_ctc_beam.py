"""Beam search over CTC labels against every alignment, counted one by one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echox_jax.decoding import ctc_beam
from echox_jax.models.adapter import CtcTable

BLANK, LABELS = 2, 5


def frames_of(seed, clips=3, frames=5):
  """Log-probabilities [clips,frames,LABELS], of which frames are quite unsure."""
  scores = np.random.default_rng(seed).normal(size=(clips, frames, LABELS)) * 1.5
  return np.asarray(jax.nn.log_softmax(jnp.asarray(scores, jnp.float32)))


def labels_of(scores):
  """As `frame_labels` has them; a table that is the identity makes logits of frames."""
  table = CtcTable(jnp.eye(LABELS))
  return ctc_beam.frame_labels(jnp.asarray(scores), table, BLANK, chunk=0)


def counted(scores):
  """{labels: log-probability} of a clip, over all of its alignments."""
  found = {}
  for path in itertools.product(range(LABELS), repeat=len(scores)):
    said = tuple(label for label, _ in itertools.groupby(path) if label != BLANK)
    found.setdefault(said, []).append(sum(scores[t, label] for t, label in enumerate(path)))
  return {said: np.logaddexp.reduce(each) for said, each in found.items()}


@pytest.fixture(autouse=True)
def few_labels(monkeypatch):
  monkeypatch.setattr(ctc_beam, '_LABELS', LABELS - 1)


@pytest.mark.parametrize('seed', range(3))
def test_a_wide_beam_finds_the_likeliest_labels_with_their_probabilities(seed):
  scores, lengths = frames_of(seed), np.array([5, 3, 4])
  found = ctc_beam.search(labels_of(scores), lengths, width=1400, budget=5)
  for clip, length in enumerate(lengths):
    real = counted(scores[clip, :length])
    best = sorted(real, key=real.get, reverse=True)[:20]
    said = [
      tuple(ids[:n].tolist()) for ids, n in zip(found.ids[clip, :20], found.lengths[clip, :20])
    ]
    assert said == best
    np.testing.assert_allclose(found.scores[clip, :20], [real[s] for s in best], rtol=1e-5)


def test_a_word_that_two_frames_take_for_two_words_is_written_once():
  """The best path writes both; together, the alignments of each alone are likelier."""
  probabilities = np.full((1, 4, LABELS), 0.01)
  probabilities[0, :, BLANK] = [0.97, 0.25, 0.25, 0.97]
  probabilities[0, 1, [0, 1]] = 0.45, 0.28
  probabilities[0, 2, [0, 1]] = 0.28, 0.45
  scores = np.log(probabilities / probabilities.sum(-1, keepdims=True)).astype(np.float32)
  path = np.argmax(scores[0], axis=-1)
  assert path.tolist() == [BLANK, 0, 1, BLANK]
  found = ctc_beam.search(labels_of(scores), np.array([4]), width=4, budget=4)
  assert found.lengths[0, 0] == 1


def test_a_label_said_twice_takes_a_blank_in_between():
  scores = np.full((1, 3, LABELS), -20.0, np.float32)
  scores[0, [0, 1, 2], [3, BLANK, 3]] = 0.0
  found = ctc_beam.search(labels_of(scores), np.array([3]), width=4, budget=4)
  assert found.ids[0, 0, : found.lengths[0, 0]].tolist() == [3, 3]
  scores[0, 1] = scores[0, 0]
  found = ctc_beam.search(labels_of(scores), np.array([3]), width=4, budget=4)
  assert found.ids[0, 0, : found.lengths[0, 0]].tolist() == [3]


def test_no_hypothesis_grows_beyond_the_budget_and_no_frame_is_none():
  scores = np.full((1, 5, LABELS), -20.0, np.float32)
  scores[0, np.arange(5), [0, 1, 3, 4, 0]] = 0.0
  found = ctc_beam.search(labels_of(scores), np.array([5]), width=3, budget=2)
  assert found.lengths.max() == 2
  found = ctc_beam.search(labels_of(scores), np.array([0]), width=3, budget=2)
  assert found.lengths[0, 0] == 0 and found.scores[0, 0] == 0


def test_chunks_of_frames_give_the_same_labels():
  scores = jnp.asarray(frames_of(5))
  table = CtcTable(jnp.eye(LABELS), jnp.full((LABELS,), 0.3))
  whole, parts = (ctc_beam.frame_labels(scores, table, BLANK, chunk) for chunk in (0, 6))
  assert jax.tree.map(np.shape, whole) == jax.tree.map(np.shape, parts)
  np.testing.assert_array_equal(whole.ids, parts.ids)
  np.testing.assert_allclose(whole.scores, parts.scores, rtol=1e-6)
  np.testing.assert_allclose(whole.blank, parts.blank, rtol=1e-6)
  assert not np.any(whole.ids == BLANK)
  np.testing.assert_allclose(jnp.exp(whole.blank) + jnp.exp(whole.scores).sum(-1), 1.0, rtol=1e-5)
