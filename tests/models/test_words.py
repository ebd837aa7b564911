"""An adapter that gives the LLM words, and CTC labels that are scored by how they are written."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echox_jax import errors
from echox_jax.models import adapter, chunked_head, echox
from echox_jax.models.adapter import init_adapter
from tests.helpers import echo_rows, tiny

BLANK = tiny.CONFIG.special_ids.audio
SLOTS = tiny.CONFIG.adapter.shrink_budget


def adapted(text_table='spelling', **changes):
  cfg = tiny.CONFIG
  own = dict(tied_ctc=True, spelled_ctc=True, drop_blank=True, output='words') | changes
  return dataclasses.replace(
    cfg,
    adapter=dataclasses.replace(cfg.adapter, **own),
    unit_decoder=dataclasses.replace(cfg.unit_decoder, text_table=text_table),
  )


def made(cfg, sharpness=1.0):
  """Parameters; the larger the frames, the surer they are of their labels."""
  params = tiny.params(cfg)
  letters = np.random.default_rng(1).random(params['llm']['embed_tokens']['embedding'].shape) < 0.2
  params['unit_text_embedding'] = {'embedding': jnp.asarray(letters, jnp.float32)}
  params['adapter']['out_norm'] = {
    name: leaf * sharpness for name, leaf in params['adapter']['out_norm'].items()
  }
  return params


def hear(params, cfg):
  batch = echo_rows.batch()
  return echox.embed_speech(params, cfg, batch['states'], batch['state_lengths'])


def test_a_sure_adapter_gives_the_words_as_if_they_were_written():
  cfg = adapted()
  params = made(cfg, sharpness=1e4)
  speech = hear(params, cfg)
  written = params['llm']['embed_tokens']['embedding'][speech.labels]
  slots = np.arange(SLOTS) < speech.kept[:, None]
  np.testing.assert_allclose(speech.embeddings, np.where(slots[..., None], written, 0), atol=1e-5)
  assert np.all((speech.labels != BLANK) == slots) and speech.kept.sum() > 0
  # so the LLM reads a spoken question as the written one
  ids = np.array([[1, 7, BLANK, 8]] * 3)
  heard = echox.splice(cfg, ids, params['llm']['embed_tokens']['embedding'][ids], speech)
  for row, labels, kept in zip(heard.inputs, speech.labels, speech.kept):
    same = np.array([1, 7, *labels[:kept], 8])
    np.testing.assert_allclose(
      row[: len(same)], params['llm']['embed_tokens']['embedding'][same], atol=1e-5
    )


@pytest.mark.parametrize('chunk', [0, 5])
def test_an_unsure_adapter_mixes_words_by_their_probability_but_never_the_blank(chunk):
  cfg = adapted(ctc_chunk=chunk)
  params = made(cfg, sharpness=0.05)
  speech = hear(params, cfg)
  logits = echox.ctc_logits(params, cfg, speech.frames)
  shares = jax.nn.softmax(jnp.where(np.arange(logits.shape[-1]) == BLANK, -np.inf, logits))
  mixed = shares @ params['llm']['embed_tokens']['embedding']
  found = 0
  for row in range(3):
    labels = np.argmax(logits[row], axis=-1)[: speech.frame_lengths[row]]
    begins = np.flatnonzero((labels != BLANK) & (np.insert(labels[:-1], 0, BLANK) != labels))
    assert speech.kept[row] == min(len(begins), SLOTS)
    found += len(begins)
    np.testing.assert_allclose(
      speech.embeddings[row, : speech.kept[row]], mixed[row, begins[:SLOTS]], rtol=1e-4, atol=1e-5
    )
  assert found and np.max(shares) < 0.9  # they are unsure


def test_the_adapter_learns_from_what_the_llm_makes_of_its_words():
  def loss(own, cfg):
    return jnp.sum(jnp.square(hear(params | {'adapter': own}, cfg).embeddings))

  params = made(adapted(), sharpness=0.05)
  whole, chunked = (jax.grad(loss)(params['adapter'], adapted(ctc_chunk=n)) for n in (0, 5))
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-3, atol=1e-5 * np.abs(e).max() + 1e-6),
    whole,
    chunked,
  )
  assert all(np.any(whole[name]) for name in ('ctc_spelling', 'projection'))
  assert not np.any(whole['ctc_blank'])  # no word is blank


def test_silence_gives_the_llm_nothing():
  cfg = adapted()
  params = made(cfg)
  assert np.any(hear(params, cfg).kept)
  # a blank that wins everywhere: frames that are one constant, and no other label has a logit
  params['adapter']['out_norm'] = {
    'scale': jnp.zeros(tiny.TRUNK.hidden_size),
    'bias': jnp.ones(tiny.TRUNK.hidden_size),
  }
  params['llm']['embed_tokens']['embedding'] *= 0
  params['adapter']['ctc_spelling'] *= 0
  params['adapter']['ctc_blank'] = jnp.ones(tiny.TRUNK.hidden_size)
  speech = hear(params, cfg)
  assert not np.any(speech.kept) and not np.any(speech.embeddings)
  ids = np.array([[1, 7, BLANK, 8]] * 3)
  row = echox.splice(cfg, ids, jnp.zeros((3, 4, tiny.TRUNK.hidden_size)), speech)
  np.testing.assert_array_equal(row.valid.sum(axis=1), 3)


def test_a_table_of_its_own_hears_the_same():
  cfg = adapted()
  params = made(cfg)
  own = params | {'adapter': adapter.with_own_table(params, cfg)}
  del own['unit_text_embedding']
  found, expected = hear(own, adapter.own_table_config(cfg)), hear(params, cfg)
  np.testing.assert_array_equal(found.labels, expected.labels)
  np.testing.assert_allclose(found.embeddings, expected.embeddings, rtol=1e-4, atol=1e-5)
  # how tokens are written counts
  other = params | {
    'unit_text_embedding': {'embedding': params['unit_text_embedding']['embedding'][::-1]}
  }
  assert np.any(hear(other, cfg).labels != expected.labels)


def test_candidates_are_scored_by_how_they_are_written():
  cfg = adapted()
  params = made(cfg)
  few = adapter.Candidates(jnp.asarray([3, 20, 31]), jnp.ones(3))
  whole, part = adapter.ctc_table(params, cfg), adapter.ctc_table(params, cfg, few)
  np.testing.assert_allclose(part.rows, whole.rows[few.ids], rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(part.blank, whole.blank)


def test_mean_row_takes_other_values_than_it_scores():
  rng = np.random.default_rng(0)
  states, table, values = (rng.normal(size=shape) for shape in ((2, 7, 4), (9, 4), (9, 3)))
  shares = np.exp(states @ table.T)
  shares[..., 2] = 0
  expected = shares / shares.sum(axis=-1, keepdims=True) @ values
  for chunk in (0, 4):
    found = chunked_head.mean_row(*map(jnp.asarray, (states, table, values)), chunk, without=2)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  # two positions at a time: those behind the last used one are left out
  used = jnp.arange(7) < np.array([[3], [1]])
  found = chunked_head.mean_row(*map(jnp.asarray, (states, table, values)), 4, 2, used)
  np.testing.assert_allclose(found[:, :4], expected[:, :4], rtol=1e-4, atol=1e-5)
  assert not np.any(found[:, 4:])


@pytest.mark.parametrize(
  'changes, reason',
  [
    (dict(output='letters'), 'adapter.output is .letters.: use frames or words'),
    (dict(drop_blank=False), 'set adapter.drop_blank'),
    (dict(tied_ctc=False), 'set adapter.tied_ctc'),
    (dict(text_table='embed_tokens'), 'set unit_decoder.text_table to spelling'),
  ],
)
def test_choices_that_do_not_fit(changes, reason):
  with pytest.raises(errors.ConfigError, match=reason):
    init_adapter(jax.random.key(0), adapted(**changes))
