"""Losses against their definitions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echox_jax.prompts import IGNORE
from echox_jax.training import losses
from echox_jax.verification.ctc_reference import ctc_gradient

BLANK = 3


def brute_force(logits, labels):
  """Negative log of the summed probability of every frame labelling that reads as `labels`."""
  scores = np.asarray(jax.nn.log_softmax(logits.astype(np.float64)))
  total = -np.inf
  for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
    if [label for label, _ in itertools.groupby(path) if label != BLANK] == list(labels):
      total = np.logaddexp(total, sum(scores[t, label] for t, label in enumerate(path)))
  return -total


@pytest.fixture(scope='module')
def logits():
  return np.random.default_rng(0).normal(size=(5, 5, 4)).astype(np.float32)


# Frames in use and labels of five rows; the last does not fit: its repeat needs a fourth frame.
LENGTHS = np.array([5, 4, 5, 3, 3])
LABELS = np.array([[0, 1, 2], [1, 1, IGNORE], [IGNORE] * 3, [2, 0, IGNORE], [0, 1, 1]])


def test_ctc_is_the_sum_over_all_paths(logits):
  loss, each = losses.ctc_loss(logits, LENGTHS, LABELS, BLANK)
  counts = [np.sum(row != IGNORE) for row in LABELS]
  expected = [brute_force(logits[i, : LENGTHS[i]], LABELS[i, : counts[i]]) for i in range(4)] + [
    0.0
  ]
  np.testing.assert_allclose(each, expected, rtol=1e-5)
  np.testing.assert_allclose(
    loss, np.mean([e / max(1, n) for e, n in zip(expected, counts)]), rtol=1e-5
  )


def test_ctc_gradient(logits):
  gradient = jax.grad(lambda x: jnp.sum(losses.ctc_loss(x, LENGTHS, LABELS, BLANK)[1]))(logits)
  for i in range(4):
    expected = ctc_gradient(
      logits[i : i + 1, : LENGTHS[i]], [LABELS[i][LABELS[i] >= 0]], BLANK, np.float64
    )[0]
    np.testing.assert_allclose(gradient[i, : LENGTHS[i]], expected, atol=1e-6)
    assert not np.any(gradient[i, LENGTHS[i] :])
  assert not np.any(gradient[4]), 'a row that does not fit must not pull'


@pytest.mark.parametrize('scale', [1.0, 1e4])
def test_ctc_of_long_and_extreme_rows_stays_finite(scale):
  logits = scale * np.random.default_rng(1).normal(size=(2, 300, 4)).astype(np.float32)
  labels = np.array([[0, 0, 1], [2, IGNORE, IGNORE]])
  value, gradient = jax.value_and_grad(
    lambda x: losses.ctc_loss(x, np.array([300, 0]), labels, BLANK)[0]
  )(logits)
  assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_ctc_without_speech_or_text_is_zero(logits):
  loss, _ = losses.ctc_loss(logits[:1], np.array([0]), np.full((1, 3), IGNORE), BLANK)
  assert loss == 0


def test_cross_entropy_counts_what_is_labelled(logits):
  labels = np.full((5, 5), IGNORE)
  labels[0, 1], labels[3, 4] = 2, 0
  result = losses.cross_entropy(logits, labels)
  scores = jax.nn.log_softmax(logits)
  np.testing.assert_allclose(result.total, -(scores[0, 1, 2] + scores[3, 4, 0]), rtol=1e-6)
  np.testing.assert_allclose(result.mean, result.total / 2, rtol=1e-6)
  assert result.count == 2


def test_cross_entropy_of_no_labels_is_zero(logits):
  assert losses.cross_entropy(logits, np.full((5, 5), IGNORE)).mean == 0


def test_denoising_cosine_counts_masked_positions_only():
  a = np.array([[[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [5.0, 5.0]]])
  b = np.array([[[2.0, 0.0], [-1.0, -1.0], [1.0, 0.0], [0.0, 1.0]]])
  result = losses.denoising_cosine(a, b, np.array([[True, True, True, False]]))
  np.testing.assert_allclose(result.total, 0.0 + 2.0 + 1.0, atol=1e-6)
  np.testing.assert_allclose(result.mean, 1.0, atol=1e-6)


def test_denoising_cosine_of_zero_vectors_has_finite_gradients():
  gradient = jax.grad(
    lambda a: losses.denoising_cosine(a, jnp.ones((1, 2, 3)), jnp.ones((1, 2), bool)).mean
  )(jnp.zeros((1, 2, 3)))
  assert np.all(np.isfinite(gradient))
