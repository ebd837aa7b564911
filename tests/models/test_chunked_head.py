"""Heads in chunks against the same losses of whole logits, values and gradients; and what they
never hold.
"""

import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np
import pytest

from echox_jax.models import chunked_head
from echox_jax.models.adapter import CtcTable
from echox_jax.prompts import IGNORE
from echox_jax.training import chunked_losses
from tests.helpers.processes import run_python

VOCAB, WIDTH, ROWS, LENGTH, BLANK = 1003, 24, 3, 17, 5
# one position of each row at a time; 4 and 7, which do not divide 17; all at once
CHUNKS = [1, 12, 21, 1000]
# of the rows' labels, those of the last do not fit: its repeats need blanks in between
LENGTHS = np.array([17, 12, 3])
CTC_LABELS = np.array([[7, 7, 900, 1002], [0, 31, IGNORE, IGNORE], [8, 8, 8, IGNORE]])
LOSSES = {
  'cross_entropy': lambda states, table, labels, chunk: (
    chunked_losses.cross_entropy(states, table, labels, chunk).mean
  ),
  'ctc': lambda states, table, _, chunk: chunked_losses.ctc_loss(
    states, CtcTable(table), LENGTHS, CTC_LABELS, BLANK, chunk
  )[0],
  'ctc with the blank apart': lambda states, table, _, chunk: chunked_losses.ctc_loss(
    states, CtcTable(table, 0.5 * table[9]), LENGTHS, CTC_LABELS, BLANK, chunk
  )[0],
}

# where the blank stands apart, all that plain CTC does is done, too
CASES = [pytest.param(name, marks=[pytest.mark.slow] * (name == 'ctc')) for name in LOSSES]


@pytest.fixture(scope='module')
def head():
  """(states, table, labels): the second row has no label."""
  rng = np.random.default_rng(0)
  labels = rng.integers(VOCAB, size=(ROWS, LENGTH))
  labels[0, :5] = labels[1] = IGNORE
  labels[2, -1] = VOCAB - 1
  states, table = (
    rng.normal(size=shape).astype(np.float32) for shape in ((ROWS, LENGTH, WIDTH), (VOCAB, WIDTH))
  )
  return states, table, labels


def value_and_gradients(loss, states, table, labels, chunk):
  return jax.jit(lambda *x: jax.value_and_grad(LOSSES[loss], argnums=(0, 1))(*x, labels, chunk))(
    states, table
  )


def assert_equal(actual, expected, tolerance=1e-5):
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(
      np.float32(a), np.float32(e), rtol=tolerance, atol=tolerance * np.abs(np.float32(e)).max()
    ),
    actual,
    expected,
  )


@pytest.mark.parametrize('loss', CASES)
def test_chunks_change_nothing(head, loss):
  expected = value_and_gradients(loss, *head, 0)
  for chunk in CHUNKS:
    assert_equal(value_and_gradients(loss, *head, chunk), expected)


@pytest.mark.parametrize('loss', CASES)
def test_bfloat16_table(head, loss):
  states, table, labels = head
  table = jnp.asarray(table, jnp.bfloat16)
  value, (d_states, d_table) = value_and_gradients(loss, states, table, labels, 12)
  assert d_table.dtype == jnp.bfloat16
  expected, (expected_states, expected_table) = value_and_gradients(loss, states, table, labels, 0)
  assert_equal((value, d_states), (expected, expected_states))
  assert_equal(d_table, expected_table, 2**-8)  # one rounding to bfloat16 apart


@pytest.mark.parametrize('loss', CASES)
def test_bfloat16_states(head, loss):
  states, table, labels = jnp.asarray(head[0] / 8, jnp.bfloat16), *head[1:]
  value, gradients = value_and_gradients(loss, states, table, labels, 12)
  expected, expected_gradients = value_and_gradients(loss, states, table, labels, 0)
  assert_equal(value, expected)
  # products of the gradient are taken in the dtype of the states
  assert_equal(gradients, expected_gradients, 2**-7)


def test_no_labels_at_all(head):
  states, table, _ = head
  nothing = np.full((ROWS, LENGTH), IGNORE)
  loss, gradients = value_and_gradients('cross_entropy', states, table, nothing, 12)
  assert loss == 0 and not any(np.any(x) for x in gradients)
  silent = lambda s, t: chunked_losses.ctc_loss(
    s, CtcTable(t), np.zeros(ROWS, int), np.full((ROWS, 2), IGNORE), BLANK, 12
  )[0]
  loss, gradients = jax.jit(jax.value_and_grad(silent, argnums=(0, 1)))(states, table)
  assert loss == 0 and not any(np.any(x) for x in gradients)


def test_extreme_logits_stay_finite(head):
  states, table, labels = head
  for loss in LOSSES:
    assert all(
      np.all(np.isfinite(x))
      for x in jax.tree.leaves(value_and_gradients(loss, 1e4 * states, table, labels, 12))
    )


@pytest.mark.parametrize('loss', CASES)
@pytest.mark.parametrize('chunk', CHUNKS)
def test_states_learn_alike_from_a_frozen_table(head, loss, chunk):
  states, table, labels = head
  gradient = lambda s, size: jax.grad(lambda s: 3 * LOSSES[loss](s, table, labels, size))(s)
  found, expected = (jax.jit(gradient, static_argnums=1)(states, size) for size in (chunk, 0))
  assert np.any(expected)
  assert_equal(found, expected)


def test_argmax(head):
  states, table, _ = head
  expected = np.argmax(states @ table.T, axis=-1)
  for chunk in [0, *CHUNKS]:
    found = jax.jit(chunked_head.argmax, static_argnums=2)(states, table, chunk)
    np.testing.assert_array_equal(found, expected)


def shapes(jaxpr):
  """Shapes of all arrays that a program makes, in its loops too."""
  for equation in jaxpr.eqns:
    yield from (variable.aval.shape for variable in equation.outvars)
    for inner in core.jaxprs_in_params(equation.params):
      yield from shapes(inner)


@pytest.mark.parametrize('loss', CASES)
def test_no_whole_logits_and_no_gradient_of_a_frozen_table(head, loss):
  states, table, labels = head
  made = lambda chunk: set(
    shapes(jax.make_jaxpr(jax.grad(lambda s: LOSSES[loss](s, table, labels, chunk)))(states).jaxpr)
  )
  assert (ROWS, LENGTH, VOCAB) in made(0)
  lean = made(12)
  assert (ROWS, 4, VOCAB) in lean
  # Neither more logits nor a gradient [row groups,V,D]; the table itself has two axes.
  assert not any(
    len(shape) > 2 and VOCAB in shape and np.prod(shape) > ROWS * 4 * VOCAB for shape in lean
  )


_SCRIPT = """
import jax
jax.config.update('jax_num_cpu_devices', 8)
import numpy as np
from jax.sharding import NamedSharding
from echox_jax.models import chunked_head
from echox_jax.models.adapter import CtcTable
from echox_jax.parallel import sharding
from echox_jax.training import chunked_losses
from echox_jax.prompts import IGNORE

rows, length, width, vocab = 8, 14, 32, 1003
rng = np.random.default_rng(0)
states = rng.normal(size=(rows, length, width)).astype(np.float32)
table = rng.normal(size=(vocab, width)).astype(np.float32)
labels = rng.integers(vocab, size=(rows, length))
labels[:, :3] = IGNORE
spoken, lengths = labels[:, 3:7], rng.integers(5, length, rows)

def run(states, table, labels, spoken, lengths, chunk):
  def loss(states, table):
    ce = chunked_losses.cross_entropy(states, table, labels, chunk).mean
    return ce + chunked_losses.ctc_loss(states, CtcTable(table), lengths, spoken, 5, chunk)[0]
  likeliest = chunked_head.argmax(states, table, chunk)
  return jax.value_and_grad(loss, argnums=(0, 1))(states, table), likeliest

def close(a, e):
  np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5 * np.abs(e).max())

expected = jax.jit(run, static_argnums=5)(states, table, labels, spoken, lengths, 0)
for sizes in (dict(data=2, fsdp=2, tensor=2), dict(fsdp=2, tensor=2, sequence=2)):
  mesh = sharding.make_mesh(sizes)
  with jax.set_mesh(mesh):
    put = lambda x, *names: jax.device_put(x, NamedSharding(mesh, sharding.spec(names)))
    arguments = (put(states, 'batch', 'length', None), put(table, 'vocab', 'table_embed'),
                 *(put(x, 'batch') for x in (labels, spoken, lengths)))
    compiled = jax.jit(run, static_argnums=5).lower(*arguments, 24).compile()
    jax.tree.map(close, compiled(*arguments), expected)
  text = compiled.as_text()
  assert f',{vocab}]' not in text, 'a device holds all logits'
  assert f'[{vocab},{width}]' not in text, 'a device holds the table'
print('equal')
"""


def test_eight_devices():
  printed = run_python('-c', _SCRIPT)
  assert printed.strip().endswith('equal')
