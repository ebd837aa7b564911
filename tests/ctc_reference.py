"""CTC gradient by the textbook alpha-beta recursion in NumPy, in a chosen precision.

In float64 it is the truth. In float32 it rounds as torch's kernel on a CPU does, which made the golden gradients: scores of
thousands leave few digits, so that whole rows of the CTC gradient come out 0.05 to 0.3 % too large or too small.
"""

import numpy as np


def ctc_gradient(logits, labels, blank, dtype):
  """d(negative log-likelihood) / d(logits): float[T,V] logits and the ids of the labels -> dtype[T,V]."""
  logits = np.asarray(logits, dtype)
  peak = logits.max(-1, keepdims=True)
  scores = logits - peak - np.log(np.exp(logits - peak).sum(-1, keepdims=True))
  path = np.full(2 * len(labels) + 1, blank)
  path[1::2] = labels
  alpha = _recursion(scores, path)
  beta = _recursion(scores[::-1], path[::-1])[::-1, ::-1]
  likelihood = np.logaddexp(alpha[-1, -1], alpha[-1, -2], dtype=dtype)
  through = np.full_like(scores, -np.inf)
  for at, label in enumerate(path):
    through[:, label] = np.logaddexp(through[:, label], alpha[:, at] + beta[:, at], dtype=dtype)
  by_score = np.exp(scores) - np.exp(through - likelihood - scores)
  return by_score - np.exp(scores) * by_score.sum(-1, keepdims=True)


def _recursion(scores, path):
  """Log-probabilities [T,S] of all beginnings that end at each step of the path."""
  never = np.full(2, -np.inf, scores.dtype)
  skips = np.concatenate([[False, False], (path[2:] != path[:-2]) & (np.arange(2, len(path)) % 2 == 1)])
  alpha = np.full((len(scores), len(path)), -np.inf, scores.dtype)
  alpha[0, :2] = scores[0, path[:2]]
  for t in range(1, len(scores)):
    padded = np.concatenate([never, alpha[t - 1]])
    options = np.stack([padded[2:], padded[1:-1], np.where(skips, padded[:-2], never[0])])
    best = options.max(0)
    best = np.where(np.isinf(best), 0, best).astype(scores.dtype)
    with np.errstate(divide='ignore'):
      alpha[t] = np.log(np.exp(options - best).sum(0, dtype=scores.dtype)) + best + scores[t, path]
  return alpha
