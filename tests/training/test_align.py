"""Stage `align`, and CTC labels that the LLM's embeddings score."""

import dataclasses

from flax import linen as nn
import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echox_jax.errors import ConfigError
from echox_jax.evaluation.judge import word_errors
from echox_jax.models import echox
from echox_jax.models.adapter import CtcTable, Speech, init_adapter
from echox_jax.models.llama import init_llm
from echox_jax.prompts import IGNORE, NANO_IDS
from echox_jax.training import align_step, candidates, checkpoint, chunked_losses, loop, s2t_step
from echox_jax.training.experiment import (
  DataConfig,
  ExperimentConfig,
  LossConfig,
  OptimizerConfig,
  TrainConfig,
)
from tests.helpers import echo_rows, tiny
from tests.training.test_overfit_s2t import CFG, train

BLANK = NANO_IDS.audio


def tied(cfg, **changes):
  return dataclasses.replace(
    cfg, adapter=dataclasses.replace(cfg.adapter, tied_ctc=True, **changes)
  )


def job(cfg, chunk=0, stage='align', few=0, **changes):
  model = dataclasses.replace(cfg, adapter=dataclasses.replace(cfg.adapter, ctc_chunk=chunk))
  return ExperimentConfig(
    stage=stage,
    model=model,
    data=DataConfig(max_tokens=16),
    train=TrainConfig(loss=LossConfig(chunk_tokens=chunk, ctc_candidates=few), **changes),
  )


def alike():
  """(parameters of a tied adapter, those of one whose own table is the same)."""
  own = tiny.params(tied(tiny.CONFIG))
  own['adapter']['ctc_blank'] = 3.0 * own['llm']['embed_tokens']['embedding'][20]
  rest = {name: leaf for name, leaf in own['adapter'].items() if name != 'ctc_blank'}
  table = own['llm']['embed_tokens']['embedding'].at[BLANK].set(own['adapter']['ctc_blank'])
  return own, own | {'adapter': rest | {'ctc_head': {'embedding': table}}}


@pytest.mark.parametrize('chunk', [pytest.param(0, marks=pytest.mark.slow), 7])
def test_tied_labels_are_those_of_the_same_table(chunk):
  ours, theirs = alike()
  batch = echo_rows.batch()
  found, expected = (
    jax.jit(jax.value_and_grad(s2t_step.s2t_loss, has_aux=True), static_argnums=(2, 3))(
      params, batch, None, job(cfg, chunk, 's2t')
    )
    for params, cfg in ((ours, tied(tiny.CONFIG)), (theirs, tiny.CONFIG))
  )
  # the gradient of keys' biases is rounding alone: it cancels in the softmax
  close = lambda a, e: np.testing.assert_allclose(
    a, e, rtol=1e-4, atol=1e-5 * np.abs(e).max() + 1e-6
  )
  jax.tree.map(close, found[0], expected[0])
  blank, table = found[1]['adapter'].pop('ctc_blank'), expected[1]['adapter'].pop('ctc_head')
  jax.tree.map(close, found[1], expected[1])
  # the blank learns as before; the LLM's rows, those of the words too, learn nothing from CTC
  close(blank, table['embedding'][BLANK])
  assert np.any(table['embedding'][30]) and np.any(blank)


def test_the_blank_can_win_and_the_row_of_its_id_cannot():
  cfg = tied(tiny.CONFIG)
  params, _ = alike()
  table = params['llm']['embed_tokens']
  params['adapter']['ctc_blank'] = jnp.zeros(tiny.TRUNK.hidden_size)
  states, lengths = (echo_rows.batch()[name] for name in ('states', 'state_lengths'))
  speech = echox.embed_speech(params, cfg, states, lengths)
  frame = speech.frames[0, 0]
  said = speech.labels[0, 0]
  # the LLM's row of the id is the best of all, but counts for nothing
  loud = params | {
    'llm': params['llm']
    | {'embed_tokens': {'embedding': table['embedding'].at[BLANK].set(9 * frame)}}
  }
  same = echox.embed_speech(loud, cfg, states, lengths)
  assert said != BLANK and same.labels[0, 0] == said
  logits = echox.ctc_logits(loud, cfg, speech.frames)
  np.testing.assert_array_equal(np.argmax(logits[0, 0]), said)
  silent = params | {'adapter': params['adapter'] | {'ctc_blank': 9 * frame}}
  assert echox.embed_speech(silent, cfg, states, lengths).labels[0, 0] == BLANK
  assert np.argmax(echox.ctc_logits(silent, cfg, speech.frames)[0, 0]) == BLANK


def test_a_tied_adapter_has_no_table():
  shapes = jax.eval_shape(lambda: nn.meta.unbox(init_adapter(jax.random.key(0), tied(tiny.CONFIG))))
  assert 'ctc_head' not in shapes and shapes['ctc_blank'].shape == (tiny.TRUNK.hidden_size,)
  # other parameters start as without
  other = nn.meta.unbox(init_adapter(jax.random.key(0), tiny.CONFIG))
  own = nn.meta.unbox(init_adapter(jax.random.key(0), tied(tiny.CONFIG)))
  del own['ctc_blank'], other['ctc_head']
  jax.tree.map(np.testing.assert_array_equal, own, other)


def test_candidates_are_what_is_said_and_others_for_the_rest():
  transcript = np.array([[20, 21, IGNORE], [21, 30, 7]])
  for seed in range(5):
    few = candidates.choose(jax.random.key(seed), transcript, 50, 12, BLANK)
    assert {7, 20, 21, 30} < set(few.ids.tolist()) and BLANK not in few.ids
    assert len(set(few.ids.tolist())) == 12 and list(few.ids) == sorted(few.ids)
    said = np.isin(few.ids, transcript)
    np.testing.assert_allclose(few.stands_for, np.where(said, 1, (49 - 4) / (12 - 4)), rtol=1e-6)


@pytest.mark.parametrize(
  'tie, chunk', [pytest.param(True, 0, marks=pytest.mark.slow), (True, 7), (False, 7)]
)
def test_all_others_as_candidates_are_the_vocabulary(tie, chunk):
  cfg = tied(tiny.CONFIG) if tie else tiny.CONFIG
  params, batch = tiny.params(cfg), echo_rows.batch()
  few = candidates.choose(
    jax.random.key(0), batch['ctc_labels'], cfg.llm.vocab_size, cfg.llm.vocab_size - 1, BLANK
  )

  def loss(own, chosen):
    given = params | {'adapter': own}
    speech = echox.embed_speech(
      given, cfg, batch['states'], batch['state_lengths'], candidates=chosen
    )
    return s2t_step.speech_ctc(given, batch, speech, job(cfg, chunk), chosen), speech.labels

  found, expected = (
    jax.value_and_grad(loss, has_aux=True)(params['adapter'], chosen) for chosen in (few, None)
  )
  np.testing.assert_array_equal(found[0][1], expected[0][1])
  close = lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-6)
  jax.tree.map(close, (found[0][0], found[1]), (expected[0][0], expected[1]))
  assert found[0][0] > 0.1


def test_the_normaliser_is_right_on_average():
  rng = np.random.default_rng(3)
  frames = rng.normal(size=(1, 1, 8)).astype(np.float32)
  rows, blank = 0.5 * rng.normal(size=(300, 8)).astype(np.float32), np.zeros(8, np.float32)
  labels = np.array([[20]])

  @jax.jit
  def likelihood(key):
    few = candidates.choose(key, labels, 300, 40, BLANK)
    table = CtcTable(jnp.asarray(rows)[few.ids], blank, few)
    return -chunked_losses.ctc_loss(frames, table, np.array([1]), labels, BLANK, 0)[0]

  whole = CtcTable(jnp.asarray(rows), blank)
  exact = chunked_losses.ctc_loss(frames, whole, np.array([1]), labels, BLANK, 4)[0]
  # 1 / likelihood is linear in the normaliser
  estimates = np.exp(-jax.vmap(likelihood)(jax.random.split(jax.random.key(1), 4000)))
  assert estimates.std() > 0.02 * estimates.mean()
  np.testing.assert_allclose(estimates.mean(), np.exp(exact), rtol=0.02)


@pytest.mark.parametrize('few', [16, 300])
def test_too_few_or_too_many_candidates(few):
  experiment = job(tied(tiny.CONFIG), few=few, batch_size=4)
  experiment = dataclasses.replace(
    experiment, data=dataclasses.replace(experiment.data, max_ctc_labels=4)
  )
  with pytest.raises(ConfigError, match=f'ctc_candidates is {few}: it must be above the 16 labels'):
    candidates.check(experiment)


def speech_of(embeddings, labels):
  kept = np.sum(labels != BLANK, axis=-1)
  return Speech(embeddings, kept, 0 * kept, embeddings, kept, labels)


def test_pull_is_the_distance_of_heard_words_alone():
  rng = np.random.default_rng(0)
  out, words = rng.normal(size=(2, 2, 4, 8)).astype(np.float32)
  labels = np.array([[20, BLANK, 21, 22], [21, 21, BLANK, BLANK]])
  transcript = np.array([[22, 20, IGNORE], [21, IGNORE, IGNORE]])
  expected = []
  for place in ((0, 0), (0, 3), (1, 0), (1, 1)):  # 21 is not in the first transcript
    a, b = np.linalg.norm(out[place]), np.linalg.norm(words[place])
    expected.append(1 - out[place] @ words[place] / (a * b) + (np.log(a) - np.log(b)) ** 2)
  found = align_step.pull(speech_of(out, labels), words, transcript, BLANK)
  np.testing.assert_allclose(found, np.mean(expected), rtol=1e-5)
  nothing = jax.grad(
    lambda x: align_step.pull(speech_of(0 * x, 0 * labels + BLANK), words, transcript, BLANK)
  )(out)
  assert not np.any(nothing)


def test_token_errors_are_edit_distances():
  rng = np.random.default_rng(1)
  heard = np.where(rng.random((40, 9)) < 0.3, BLANK, rng.integers(20, 24, (40, 9)))
  lengths = rng.integers(0, 7, 40)
  transcript = np.where(np.arange(6) < lengths[:, None], rng.integers(20, 24, (40, 6)), IGNORE)
  text = lambda row: ' '.join(str(i) for i in row if i not in (BLANK, IGNORE))
  expected = [word_errors(text(t), text(h))[0] for t, h in zip(transcript, heard)]
  found = jax.jit(align_step.token_errors, static_argnums=2)(heard, transcript, BLANK)
  np.testing.assert_array_equal(found, expected)


def spoken():
  """Four clips: ten noisy states of each token's sound, as a frozen encoder would give."""
  random = np.random.default_rng(0)
  sounds = random.normal(size=(24, 16))
  transcripts = np.array([[12, 13, 14], [15, 16, IGNORE], [14, 12, 16], [13, 15, 13]], np.int32)
  states = np.repeat(sounds[np.maximum(transcripts, 0)], 10, axis=1)
  states += 0.1 * random.normal(size=states.shape)
  return {
    'ctc_labels': transcripts,
    'states': states.astype(np.float32),
    'state_lengths': np.array([30, 20, 30, 30], np.int32),
  }


@pytest.mark.slow
def test_the_adapter_learns_the_words_and_their_embeddings():
  cfg = tied(CFG, drop_blank=True)
  make = lambda key: {'llm': init_llm(key, cfg), 'adapter': init_adapter(key, cfg)}
  params = nn.meta.unbox(jax.jit(make)(jax.random.key(0)))
  table = jnp.asarray(params['llm']['embed_tokens']['embedding']) * 20
  params['llm']['embed_tokens']['embedding'] = table
  loss = lambda own, batch, key, experiment: align_step.align_loss(
    {'llm': params['llm'], 'adapter': own}, batch, key, experiment
  )
  losses, metrics = train(params['adapter'], loss, spoken(), job(cfg), 400, 5e-3)
  assert metrics['ctc'][0] > 2.0 and metrics['ctc'][-1] < 0.05
  assert max(metrics['pull'][:40]) > 0.5 and metrics['pull'][-1] < 0.05
  assert metrics['token_error_rate'][0] > 0.5 and metrics['token_error_rate'][-1] == 0
  # a frame for each token, and perhaps a silence at the start
  assert 11 <= metrics['kept_frames'][-1] <= 15
  assert metrics['tokens'][-1] == 11 and metrics['overflow_shrink'][-1] == 0
  np.testing.assert_allclose(losses, metrics['ctc'] + metrics['pull'], rtol=1e-5)


def rows(experiment, workdir, share=None):
  """A Grain iterator over the clips, with a question for s2t."""
  del workdir
  batch = spoken()
  if experiment.stage == 's2t':
    ids = np.tile(np.array([1, NANO_IDS.audio, 13, 14], np.int32), (4, 1))
    batch |= {'input_ids': ids, 'labels': np.where(ids > 12, ids, IGNORE)}
  clips = [{name: value[i] for name, value in batch.items()} for i in range(4)]
  share = range(4) if share is None else share
  return iter(
    grain.MapDataset.source(clips)
    .repeat()
    .batch(4)
    .map(lambda whole: {name: value[list(share)] for name, value in whole.items()})
    .to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
  )


@pytest.mark.slow
def test_s2t_starts_from_the_aligned_adapter(tmp_path):
  llm = dataclasses.replace(CFG.llm, lora=dataclasses.replace(CFG.llm.lora, rank=2))
  cfg = tied(dataclasses.replace(CFG, llm=llm), drop_blank=True)
  fast, still = OptimizerConfig(warmup_steps=1), OptimizerConfig(learning_rate=0, warmup_steps=0)
  first = job(cfg, steps=3, batch_size=4, init_from=('scratch',), log_every=1, optimizer=fast)
  summary = loop.train(first, tmp_path, rows)
  assert summary['finished'] and {'ctc', 'pull'} <= summary['metrics'].keys()
  then = job(cfg, stage='s2t', steps=1, batch_size=4, init_from=('align',), optimizer=still)
  loop.train(then, tmp_path, rows)
  found, expected = (
    checkpoint.load_groups(tmp_path / stage, ['adapter', 'llm']) for stage in ('s2t', 'align')
  )
  jax.tree.map(np.testing.assert_array_equal, found, expected)
