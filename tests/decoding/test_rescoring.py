"""The LLM chooses among hypotheses: a tree of them scores as each of them alone."""

import jax
import jax.numpy as jnp
import numpy as np

from echox_jax.decoding import rescoring
from echox_jax.decoding.ctc_beam import Hypotheses
from echox_jax.models.llama import apply_llm
from tests.helpers import tiny

CONTEXT = (5, 9, 3)
SAID = [[[7, 8, 9, 11], [7, 8, 12], [7, 13], [14, 8, 9]], [[20, 21], [20], [], [21, 20, 21]]]
WEIGHTS = rescoring.Weights(lm=0.7, label=1.5)


def hypotheses(scores=((-1.0, -1.2, -1.3, -1.4), (-2.0, -2.1, -2.2, -2.3)), slots=5):
  ids = np.zeros((2, 4, slots), np.int32)
  for clip, row in enumerate(SAID):
    for rank, own in enumerate(row):
      ids[clip, rank, : len(own)] = own
  lengths = [[len(own) for own in row] for row in SAID]
  return Hypotheses(jnp.asarray(ids), jnp.asarray(lengths), jnp.asarray(scores))


def alone(params, own):
  """Log-probability of labels behind the context, read by themselves."""
  ids = np.array([[*CONTEXT, *own]])
  logits = jax.nn.log_softmax(apply_llm(params, tiny.CONFIG, '__call__', ids))
  return sum(float(logits[0, len(CONTEXT) + i - 1, label]) for i, label in enumerate(own))


def test_it_chooses_what_scores_best_when_each_is_read_alone():
  params, found = tiny.params(), hypotheses()
  best = rescoring.choose(params, tiny.CONFIG, CONTEXT, WEIGHTS, 16, found)
  for clip, row in enumerate(SAID):
    scores = [
      float(found.scores[clip, rank]) + 0.7 * alone(params, own) for rank, own in enumerate(row)
    ]
    lengths = [len(own) for own in row]
    number = np.argmax(np.asarray(scores) + 1.5 * np.asarray(lengths))
    assert best.number[clip] == number
    surety = scores[number] / max(lengths[number], 1)
    np.testing.assert_allclose(best.surety[clip], surety, rtol=1e-4)


def test_labels_that_hypotheses_share_are_read_once():
  params, found = tiny.params(), hypotheses()
  tree = jax.vmap(lambda ids, lengths: rescoring.grow(ids, lengths, 16))(found.ids, found.lengths)
  said = rescoring.node_scores(params, tiny.CONFIG, CONTEXT, tree)
  for clip, row in enumerate(SAID):
    paths = {tuple(own[: i + 1]) for own in row for i in range(len(own))}
    assert int(tree.nodes[clip].max()) + 1 == len(paths)
    for rank, own in enumerate(row):
      total = sum(float(said[clip, node]) for node in tree.nodes[clip, rank, : len(own)])
      np.testing.assert_allclose(total, alone(params, own), rtol=1e-4)


def test_what_does_not_fit_is_not_chosen_and_where_nothing_fits_the_likeliest_is():
  params = tiny.params()
  found = hypotheses(scores=((-1.0, -1.2, -1.3, 90.0), (-2.0, -2.1, -2.2, -2.3)))
  whole = rescoring.choose(params, tiny.CONFIG, CONTEXT, WEIGHTS, 16, found)
  assert whole.number[0] == 3  # its seven nodes are there
  six = rescoring.choose(params, tiny.CONFIG, CONTEXT, WEIGHTS, 6, found)
  assert six.number[0] != 3 and six.number[1] == whole.number[1]
  two = rescoring.choose(params, tiny.CONFIG, CONTEXT, WEIGHTS, 2, found)
  assert two.number[0] == 0 and np.isinf(two.surety[0])
