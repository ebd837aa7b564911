"""T2C and echo training learn one batch; the echo decoder learns to say what the frozen T2C
says.
"""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from echox_jax import errors, prompts
from echox_jax.decoding import generate
from echox_jax.models import echox
from echox_jax.models.unit_decoder import DenoisingAdapter, init_denoising_adapter
from echox_jax.prompts import IGNORE
from echox_jax.training import echo_step
from echox_jax.training.experiment import DataConfig, ExperimentConfig, LossConfig, TrainConfig
from tests.helpers import echo_rows, tiny
from tests.helpers.echo_rows import SAYINGS

CFG = tiny.CONFIG
IDS, VOCAB, PAPER = CFG.special_ids, CFG.llm.vocab_size, prompts.get_profile('paper')


def experiment(**loss):
  return ExperimentConfig(
    model=CFG,
    data=DataConfig(max_unit_words=10),
    train=TrainConfig(loss=LossConfig(**dict(max_slices=3, max_new_tokens=16) | loss)),
  )


def train(loss, params, batch, job, trained, steps, learning_rate):
  """Adam on the groups `trained`; returns (params, last metrics)."""
  optimizer = optax.adam(learning_rate)

  @jax.jit
  def step(held, state, key):
    value = lambda part: loss(held | part, batch, key, job)
    gradients, metrics = jax.grad(value, has_aux=True)({name: held[name] for name in trained})
    updates, state = optimizer.update(gradients, state)
    return (
      held | optax.apply_updates({name: held[name] for name in trained}, updates),
      state,
      metrics,
    )

  state = optimizer.init({name: params[name] for name in trained})
  for i in range(steps):
    params, state, metrics = step(params, state, jax.random.key(i))
  return params, metrics


@pytest.fixture(scope='module')
def start():
  return jax.tree.map(lambda x: x / 2.5 if x.ndim > 1 else x, tiny.params())


@pytest.fixture(scope='module')
def t2c(start):
  rows = [
    prompts.text_to_codec_row(IDS, PAPER, text, words, VOCAB) for text, words in SAYINGS.items()
  ]
  width = max(len(ids) for ids, _ in rows)
  fill = lambda row, value: row + [value] * (width - len(row))
  batch = {
    'input_ids': jnp.array([fill(ids, IDS.pad) for ids, _ in rows]),
    'labels': jnp.array([fill(labels, IGNORE) for _, labels in rows]),
  }
  return train(echo_step.t2c_loss, start, batch, experiment(), ('t2c',), 200, 4e-3)


def test_t2c_says_what_it_was_taught(t2c):
  params, metrics = t2c
  assert metrics['unit_ce'] < 0.05 and metrics['overflow_unit_words'] == 0
  text = jnp.array([list(t) + [0] * (8 - len(t)) for t in SAYINGS])
  words = jax.jit(lambda p, t, n: echo_step.pseudo_labels(p, CFG, t, n, 10))(
    params, text, jnp.array([len(t) for t in SAYINGS])
  )
  assert [words.ids[i, :n].tolist() for i, n in enumerate(words.lengths)] == [
    list(w) for w in SAYINGS.values()
  ]
  assert not words.overflow.any()


def test_a_slice_without_an_end_is_said_as_the_text_that_has_one(t2c):
  (text, words), *_ = SAYINGS.items()
  decoder = dataclasses.replace(CFG.unit_decoder, closing_ids=(text[-1], 39))
  cfg = dataclasses.replace(CFG, unit_decoder=decoder)
  rows = jnp.array([[*text[:-1], *[0] * (9 - len(text))], [*text, *[0] * (8 - len(text))]])
  lengths = jnp.array([len(text) - 1, len(text)])
  said = jax.jit(lambda p: echo_step.pseudo_labels(p, cfg, rows, lengths, 10))(t2c[0])
  assert [said.ids[i, :n].tolist() for i, n in enumerate(said.lengths)] == [list(words)] * 2
  # the echo decoder reads it so, too
  job = dataclasses.replace(experiment(echo_text='gold', slices_per_batch=5), model=cfg)
  params = t2c[0] | {'echo': t2c[0]['t2c']}
  states = jnp.take(params['unit_text_embedding']['embedding'], rows, axis=0)
  slices = echo_step.SliceBatch(states, rows, lengths, jnp.arange(2), 0, 0)
  fused = dataclasses.replace(cfg, unit_decoder=dataclasses.replace(decoder, text_fusion=True))
  fresh = nn.meta.unbox(init_denoising_adapter(jax.random.key(0), fused))
  ce, _ = jax.jit(
    lambda p: echo_step.echo_terms(p, fused, slices, rows, said, None, job.train.loss)
  )(params | {'denoising_adapter': fresh})
  assert ce.mean < 0.05


def test_echo_decoder_says_the_pseudo_labels(t2c):
  params = t2c[0] | {'echo': t2c[0]['t2c']}
  batch, job = echo_rows.batch(), experiment(echo_text='gold', slices_per_batch=5)
  trained = ('llm', 'adapter', 'echo', 'denoising_adapter')
  params, metrics = train(echo_step.echo_loss, params, batch, job, trained, 120, 4e-3)
  assert metrics['echo_ce'] < 0.1 and metrics['text_ce'] < 0.5
  assert metrics['slices'] == 3 and metrics['unit_words'] == 14
  assert not any(
    value
    for name, value in metrics.items()
    if name.startswith('overflow') or name == 'silent_slices'
  )

  @jax.jit
  def speak(params):
    spoken = echo_step.answers(CFG, echox.s2t_forward(params, CFG, batch), 20)
    adapted = DenoisingAdapter(CFG).apply({'params': params['denoising_adapter']}, spoken.states)
    return generate.decode_unit_words(
      params['echo'], CFG, params['unit_text_embedding']['embedding'], adapted, spoken.lengths, 10
    )

  words = speak(params)
  assert [words.ids[i, :n].tolist() for i, n in enumerate(words.lengths)] == [
    list(w) for w in SAYINGS.values()
  ]


def test_where_text_is_read_beside_the_states_the_echo_decoder_begins_as_t2c(t2c):
  cfg = dataclasses.replace(
    CFG, unit_decoder=dataclasses.replace(CFG.unit_decoder, text_fusion=True)
  )
  job = dataclasses.replace(experiment(echo_text='gold', slices_per_batch=5), model=cfg)
  fresh = nn.meta.unbox(init_denoising_adapter(jax.random.key(0), cfg))
  params = t2c[0] | {'echo': t2c[0]['t2c'], 'denoising_adapter': fresh}
  metrics = jax.jit(lambda p: echo_step.echo_loss(p, echo_rows.batch(), None, job)[1])(params)
  assert metrics['unit_words'] == 14 and metrics['echo_ce'] < 0.05 and metrics['denoising'] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize('text', ['argmax', 'generate'])
def test_other_sources_of_the_text(start, text):
  params = start | {'echo': start['t2c']}
  loss = lambda p: echo_step.echo_loss(
    p, echo_rows.batch(), jax.random.key(0), experiment(echo_text=text)
  )
  (value, metrics), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  assert np.isfinite(value) and all(
    np.isfinite(x) for x in jax.tree.leaves((metrics, gradients)) for x in np.ravel(x)
  )
  assert ('overflow_answers' in metrics) == (text == 'generate')
  assert not any(
    np.any(x) for x in jax.tree.leaves([gradients['t2c'], gradients['unit_text_embedding']])
  )
  assert all(
    any(np.any(x) for x in jax.tree.leaves(gradients[name]))
    for name in ('llm', 'adapter', 'denoising_adapter')
  )


def test_unknown_source_is_refused():
  with pytest.raises(errors.ConfigError, match='echo_text'):
    echo_step.echo_loss({}, {}, None, experiment(echo_text='dreams'))


def test_slices_are_gathered_and_what_has_no_room_is_counted(start):
  """Head row of "." and states are set so that every fourth token is a peak."""
  cfg = dataclasses.replace(CFG, streaming=dataclasses.replace(CFG.streaming, max_slice_tokens=6))
  peak = jnp.arange(16) % 4 == 3
  states = jnp.where(peak[None, :, None], 1.0, -1.0) * jnp.ones((3, 16, 24))
  params = {'llm': start['llm'] | {'lm_head': {'embedding': jnp.ones((VOCAB, 24))}}}
  ids = jnp.arange(48).reshape(3, 16)
  gather = lambda room: jax.jit(
    lambda s: echo_step.batch_slices(
      params, cfg, echo_step.Answers(s, ids, jnp.array([16, 7, 0])), 2, room
    )
  )(states)
  slices = gather(4)
  # Row 0: tokens 0-3, 4-7 and two more slices beyond `max_slices`; row 1: 0-3, 4-6; row 2: nothing.
  assert (
    slices.lengths.tolist() == [4, 4, 4, 3]
    and slices.overflow_slices == 2
    and slices.overflow_slice_tokens == 0
  )
  assert [slices.ids[i, :n].tolist() for i, n in enumerate(slices.lengths)] == [
    [0, 1, 2, 3],
    [4, 5, 6, 7],
    [16, 17, 18, 19],
    [20, 21, 22],
  ]
  assert gather(3).overflow_slices == 3 and gather(0).lengths.tolist() == [4, 4, 4, 3, 0, 0]
  cfg = dataclasses.replace(cfg, streaming=dataclasses.replace(cfg.streaming, max_slice_tokens=3))
  slices = gather(4)
  assert slices.lengths.tolist() == [3, 0, 0, 0] and slices.overflow_slice_tokens == 3


def test_conventional_targets_are_those_of_the_recording(start):
  """A whole answer gets what was recorded, not what the frozen T2C says; a cut one gets nothing."""
  recorded = np.full((3, 10), -1, np.int32)
  for row, words in enumerate(SAYINGS.values()):
    recorded[row, : len(words)] = words[::-1]
  states = jnp.zeros((3, 6, 24))
  spoken = echo_step.Answers(states, jnp.zeros((3, 6), jnp.int32), jnp.array([4, 3, 5]))
  slices = echo_step.SliceBatch(
    *spoken[:2], spoken.lengths, 3 * jnp.arange(3), jnp.int32(0), jnp.int32(0)
  )
  words = echo_step.recorded_words(jnp.asarray(recorded), spoken, slices, 3)
  for row, said in enumerate(SAYINGS.values()):
    assert words.ids[row, : words.lengths[row]].tolist() == list(said[::-1])
  part = slices._replace(lengths=jnp.array([3, 3, 0]))
  assert echo_step.recorded_words(jnp.asarray(recorded), spoken, part, 3).lengths.tolist() == [
    0,
    3,
    0,
  ]

  never = dataclasses.replace(CFG.streaming, min_tokens=999, min_tokens_above_threshold=999)
  job = experiment(echo_targets='recorded', echo_text='gold')
  job = dataclasses.replace(job, model=dataclasses.replace(CFG, streaming=never))
  batch = echo_rows.batch() | {'unit_words': jnp.asarray(recorded)}
  _, metrics = jax.jit(lambda p: echo_step.echo_loss(p, batch, None, job))(
    start | {'echo': start['t2c']}
  )
  assert metrics['unit_words'] == 14 and metrics['silent_slices'] == 0
  with pytest.raises(errors.ConfigError, match='which echo_text .generate. replaces'):
    echo_step.echo_loss({}, {}, None, experiment(echo_targets='recorded', echo_text='generate'))
