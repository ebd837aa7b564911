"""CTC gradient by the alpha-beta recursion in NumPy: exact in float64, and in float32 rounded as
in torch's kernel.

The golden gradients come from torch on a CPU, which keeps log-probabilities of whole paths in
float32. They reach thousands, where float32 has steps of 2e-4 to 5e-4. Over hundreds of frames the
rounding errors add up, so whole rows of torch's CTC gradient are 0.05 to 0.3 % too large or too
small. Ours subtracts the best path's score after each frame (`losses.ctc_loss`) and has no such
error. So the comparison has two steps: ours with the exact gradient, and the golden norms with the
exact gradient rounded as in torch. The order of operations below is that of torch's LossCTC.cpp;
exp and log are correctly rounded, like libm's.
"""

from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def ctc_gradient(logits: Array, labels: Sequence[Array], blank: int, dtype: type) -> Array:
  """d(negative log-likelihood) / d(logits) of each row; all frames count.

  Args:
    logits: float[N,T,V].
    labels: the label ids of each row.
    blank: id of the blank.
    dtype: np.float64 = exact; np.float32 = rounded as in torch.

  Returns:
    dtype[N,T,V].
  """
  logits = np.asarray(logits, dtype)
  peak = logits.max(-1, keepdims=True)
  scores = logits - peak - _log(_exp(logits - peak).sum(-1, keepdims=True))
  made = np.empty_like(scores)
  for row, parts in enumerate(zip(scores, *_alpha_beta(scores, labels, blank))):
    made[row] = _row_gradient(*parts)
  return made


def _alpha_beta(
  scores: Array, labels: Sequence[Array], blank: int
) -> tuple[list[Array], list[Array], list[Array]]:
  """For each row the path int[S] (labels with blanks around them), and log-probabilities [T,S] of
  all prefixes that end at each step of it, and of all suffixes that start there.
  """
  paths = [np.full(2 * len(ids) + 1, blank) for ids in labels]
  for path, ids in zip(paths, labels):
    path[1::2] = ids
  forward = _recursion(scores, paths)
  backward = _recursion(scores[:, ::-1], [path[::-1] for path in paths])
  sizes = [len(path) for path in paths]
  return (
    paths,
    [row[:, :size] for row, size in zip(forward, sizes)],
    [row[::-1, :size][:, ::-1] for row, size in zip(backward, sizes)],
  )


def _recursion(scores: Array, paths: Sequence[Array]) -> Array:
  """[N,T,S]: log-probabilities of all prefixes that end at each step of the rows' paths. The unused
  end of a shorter path holds junk.
  """
  dtype, longest = scores.dtype, max(map(len, paths))
  path = np.stack([np.pad(row, (0, longest - len(row)), mode='edge') for row in paths])
  steps = np.take_along_axis(
    scores, np.broadcast_to(path[:, None], (*scores.shape[:2], longest)), axis=2
  )
  skips = np.zeros(path.shape, bool)
  skips[:, 2:] = path[:, 2:] != path[:, :-2]
  alpha = np.full((len(path), longest + 2), -np.inf, dtype)  # two columns before the path's start
  alpha[:, 2:4] = steps[:, 0, :2]
  made = np.empty(steps.shape, dtype)
  made[:, 0] = alpha[:, 2:]
  for t in range(1, steps.shape[1]):
    options = np.stack([alpha[:, 2:], alpha[:, 1:-1], np.where(skips, alpha[:, :-2], -np.inf)])
    made[:, t] = alpha[:, 2:] = _log_sum(options.astype(dtype)) + steps[:, t]
  return made


def _row_gradient(scores: Array, path: Array, alpha: Array, beta: Array) -> Array:
  """[T,V], through the log-softmax; zero if the labels do not fit into the frames."""
  likelihood = _log_sum(alpha[-1, :-3:-1])
  softmax = np.exp(scores)
  if np.isinf(likelihood):
    return np.zeros_like(softmax)
  ids, column = np.unique(path, return_inverse=True)
  through = np.full((len(scores), len(ids)), -np.inf, scores.dtype)
  for at in reversed(range(len(path))):
    through[:, column[at]] = _log_sum(
      np.stack([through[:, column[at]], alpha[:, at] + beta[:, at]])
    )
  by_score = softmax.copy()
  by_score[:, ids] -= _exp(through - likelihood - scores[:, ids])
  return by_score - softmax * by_score.sum(-1, keepdims=True)


def _log_sum(options: Array) -> Array:
  """log(sum(exp)) over the first axis, added in order."""
  best = options.max(0)
  best = np.where(np.isinf(best), 0, best).astype(options.dtype)
  total = sum(_exp(option - best) for option in options)
  return _log(total) + best


def _exp(x: Array) -> Array:
  return np.exp(x, dtype=np.float64).astype(x.dtype)


def _log(x: Array) -> Array:
  with np.errstate(divide='ignore'):
    return np.log(x, dtype=np.float64).astype(x.dtype)
