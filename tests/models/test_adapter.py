"""Adapter and splice: static budget, masks, clips alone and beside longer ones."""

import dataclasses
import functools
import itertools

from flax import linen as nn
import jax
import numpy as np
import pytest

from echox_jax import errors
from echox_jax.config import AdapterConfig, EchoXConfig, LlamaConfig, WhisperConfig
from echox_jax.models import adapter, echox
from echox_jax.models.adapter import Speech
from echox_jax.models.whisper import init_whisper
from echox_jax.prompts import IGNORE, NANO_IDS

CFG = EchoXConfig(
  special_ids=NANO_IDS,
  whisper=WhisperConfig(
    num_mel_bins=16, hidden_size=16, intermediate_size=32, num_layers=1, num_heads=2
  ),
  adapter=AdapterConfig(num_heads=2, intermediate_size=32, shrink_budget=24),
  llm=LlamaConfig(
    vocab_size=20,
    hidden_size=16,
    intermediate_size=32,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
  ),
)
VARIANTS = ('paper', 'released')


@functools.partial(jax.jit, static_argnums=1)
def embed(params, cfg, states, lengths):
  return echox.embed_speech(params, cfg, states, lengths)


def variant_of(name, **changes):
  return dataclasses.replace(CFG, adapter=dataclasses.replace(CFG.adapter, variant=name, **changes))


@pytest.fixture(scope='module')
def params():
  make = lambda key: {'adapter': adapter.init_adapter(key, CFG), 'whisper': init_whisper(key, CFG)}
  return nn.meta.unbox(jax.jit(make)(jax.random.key(0)))


@pytest.fixture(scope='module')
def states():
  return np.random.default_rng(0).normal(size=(3, 40, 16)).astype(np.float32)


@pytest.mark.parametrize('name', VARIANTS)
def test_a_clip_gives_the_same_vectors_alone_and_in_a_batch(params, states, name):
  cfg, lengths = variant_of(name), np.array([40, 23, 8])
  together = embed(params, cfg, states, lengths)
  assert np.all(together.kept > 1)
  for i, n in list(enumerate(lengths))[1:]:
    alone = embed(params, cfg, states[i : i + 1, :n], lengths[i : i + 1])
    assert alone.kept[0] == together.kept[i]
    np.testing.assert_allclose(together.embeddings[i], alone.embeddings[0], atol=1e-5)
    np.testing.assert_allclose(together.frames[i, : n // 2], alone.frames[0], atol=1e-5)


@pytest.mark.parametrize('name', VARIANTS)
def test_more_layers(params, states, name):
  cfg, lengths = variant_of(name, num_layers=3), np.array([40, 23, 8])
  make = jax.jit(lambda key: nn.meta.unbox(adapter.init_adapter(key, cfg)))
  deep = {**params, 'adapter': make(jax.random.key(0))}
  layers = [part for part in deep['adapter'] if part.startswith('alignment')]
  assert sorted(layers) == ['alignment', 'alignment_1', 'alignment_2']
  whole = embed(deep, cfg, states, lengths)
  for layer in layers:
    changed = jax.tree.map(lambda x: 1.1 * x, deep['adapter'][layer])
    other = embed({**deep, 'adapter': {**deep['adapter'], layer: changed}}, cfg, states, lengths)
    assert np.abs(other.frames - whole.frames).max() > 1e-3
  alone = embed(deep, cfg, states[1:2, :23], lengths[1:2])
  np.testing.assert_allclose(whole.frames[1, :11], alone.frames[0], atol=1e-5)


@pytest.mark.parametrize('name', VARIANTS)
def test_runs_beyond_the_budget_are_counted_and_the_first_ones_stay(params, states, name):
  lengths = np.array([40, 40, 0])
  whole = embed(params, variant_of(name), states, lengths)
  small = embed(params, variant_of(name, shrink_budget=3), states, lengths)
  assert np.all(whole.overflow == 0) and np.all(whole.kept[:2] > 3) and whole.kept[2] == 0
  np.testing.assert_array_equal(small.overflow, np.maximum(whole.kept - 3, 0))
  np.testing.assert_allclose(small.embeddings, whole.embeddings[:, :3], atol=1e-5)
  assert np.all(np.isfinite(whole.embeddings)) and not np.any(whole.embeddings[2])


@pytest.mark.parametrize('drop_blank', [False, True])
@pytest.mark.parametrize('name', VARIANTS)
def test_the_labels_of_the_slots_are_the_best_path_of_ctc(params, states, name, drop_blank):
  cfg, blank = variant_of(name, drop_blank=drop_blank), NANO_IDS.audio
  head = params['adapter']['ctc_head']['embedding']
  head = {'embedding': head.at[blank].multiply(3.0)}  # as in speech, where much is blank
  params = {'adapter': params['adapter'] | {'ctc_head': head}}
  states = states.reshape(3, 20, 2, -1)[:, np.arange(20) // 2].reshape(3, 40, -1)  # with runs
  speech = embed(params, cfg, states, np.array([40, 23, 0]))
  best = np.argmax(echox.ctc_logits(params, cfg, speech.frames), axis=-1)
  for row, found, frames in zip(best, speech.labels, speech.frame_lengths):
    runs = [label for label, _ in itertools.groupby(row[:frames].tolist())]
    assert [own for own in found.tolist() if own != blank] == [own for own in runs if own != blank]
  assert blank in best[0] and len(set(best[0].tolist())) > 2 and speech.kept[0] < 20


def test_turns_attend_to_each_other_only_in_the_released_variant(params, states):
  turns, lengths = states[None, :2], np.array([[40, 30]])
  for name, mixed in (('paper', False), ('released', True)):
    together = embed(params, variant_of(name), turns, lengths)
    alone = embed(params, variant_of(name), turns[:, 0], lengths[:, 0])
    assert together.embeddings.shape == (1, 2, 24, 16)
    assert np.allclose(together.frames[0, 0], alone.frames[0], atol=1e-6) != mixed
    # Frames of a turn that the other turn does not reach have nobody to mix with.
    np.testing.assert_allclose(together.frames[0, 0, 15:], alone.frames[0, 15:], atol=1e-5)


def test_kept_frames_are_the_first_of_each_run():
  labels = np.array([[5, 5, 9, 9, 2, 9, 9, 9]])
  real = np.arange(8)[None] < 7
  t, f = True, False
  np.testing.assert_array_equal(adapter.kept_frames(labels, real)[0], [t, f, t, f, t, t, f, f])
  np.testing.assert_array_equal(
    adapter.kept_frames(labels, real, dropped=9)[0], [t, f, f, f, t, f, f, f]
  )
  np.testing.assert_array_equal(
    adapter.kept_frames(labels[:, 2:], real[:, 2:], dropped=9)[0], [t, f, t, f, f, f]
  )


def test_budget_larger_than_the_clip():
  index, valid, overflow = adapter.select(np.array([[False, True, True]]), 5)
  np.testing.assert_array_equal(index[0, :2], [1, 2])
  np.testing.assert_array_equal(valid[0], [True, True, False, False, False])
  assert overflow[0] == 0


def test_less_kept_for_the_backward_pass_changes_nothing(params, states):
  def gradients(remat):
    cfg = dataclasses.replace(
      variant_of('paper', dropout=0.1), llm=dataclasses.replace(CFG.llm, remat=remat)
    )
    loss = lambda params: (
      echox.embed_speech(
        params,
        cfg,
        states,
        np.array([40, 23, 8]),
        deterministic=False,
        rngs={'dropout': jax.random.key(1)},
      ).embeddings
      ** 2
    ).sum()
    return jax.jit(jax.value_and_grad(loss))(params)

  for found, expected in zip(
    *(jax.tree.leaves(gradients(remat)) for remat in ('full', 'none')), strict=True
  ):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_no_layers(params, states):
  with pytest.raises(errors.ConfigError, match='num_layers is 0'):
    embed(params, variant_of('paper', num_layers=0), states, np.full(3, 40))


def test_unknown_variant(params, states):
  with pytest.raises(errors.ConfigError, match='paper or released'):
    echox.embed_speech(params, variant_of('other'), states, np.array([40, 40, 40]))


def speech_of(values, kept):
  values = np.asarray(values, np.float32)
  kept = np.asarray(kept)
  return Speech(values, kept, np.zeros_like(kept), values, kept, np.zeros(values.shape[:-1], int))


def test_splice_puts_kept_vectors_in_the_place_of_audio():
  audio, pad = NANO_IDS.audio, NANO_IDS.pad
  ids = np.array(
    [[1, audio, 13, 14, pad, pad], [1, 13, 14, 15, 16, pad], [audio, 13, 14, pad, pad, pad]]
  )
  labels = np.array([[IGNORE, IGNORE, IGNORE, 14, pad, IGNORE], [IGNORE] * 6, [IGNORE] * 6])
  tokens = np.arange(6, dtype=np.float32)[None, :, None] + np.zeros((3, 1, 2), np.float32)
  slots = 100 + np.arange(3, dtype=np.float32)[None, :, None] + np.zeros((3, 1, 2), np.float32)
  row = echox.splice(CFG, ids, tokens, speech_of(slots, [3, 2, 0]), labels)
  np.testing.assert_array_equal(
    row.inputs[..., 0],
    [[0, 100, 101, 102, 2, 3, 4, 0], [0, 1, 2, 3, 4, 0, 0, 0], [1, 2, 0, 0, 0, 0, 0, 0]],
  )
  np.testing.assert_array_equal(row.valid.sum(1), [7, 5, 2])
  assert np.all(row.valid[:, :-1] >= row.valid[:, 1:]), 'padding is at the right'
  i = IGNORE
  np.testing.assert_array_equal(row.labels[0], [i, i, i, i, i, 14, pad, i])
  assert np.all(row.labels[1:] == IGNORE)


def test_splice_of_two_turns():
  ids = np.array([[NANO_IDS.audio, 13, NANO_IDS.audio, 14]])
  slots = np.array([[[[10.0], [11.0]], [[20.0], [21.0]]]])
  row = echox.splice(CFG, ids, np.array([[[1.0], [2.0], [3.0], [4.0]]]), speech_of(slots, [[1, 2]]))
  np.testing.assert_array_equal(row.inputs[0, :, 0], [10, 2, 20, 21, 4, 0])


def test_splice_without_speech_changes_nothing():
  ids, tokens = np.array([[1, 13, 14]]), np.ones((1, 3, 2), np.float32)
  row = echox.splice(CFG, ids, tokens, None)
  np.testing.assert_array_equal(row.inputs, tokens)
  assert np.all(row.valid)


def test_prompt_eots_are_hidden_only_in_the_released_profile_with_audio():
  eot = NANO_IDS.eot
  ids = np.array([[1, eot, NANO_IDS.audio, eot, 5], [1, eot, 13, eot, 5]])
  tokens, speech = np.ones((2, 5, 2), np.float32), speech_of(np.ones((2, 1, 2)), [1, 0])
  released = echox.splice(dataclasses.replace(CFG, profile='released'), ids, tokens, speech)
  np.testing.assert_array_equal(
    released.prompt_keys, [[True, False, True, False, True], [True] * 5]
  )
  assert np.all(echox.splice(CFG, ids, tokens, speech).prompt_keys)


def test_encoded_clips_do_not_depend_on_their_neighbours(params):
  audio = 0.1 * np.random.default_rng(2).normal(size=(2, 6400)).astype(np.float32)
  encode = jax.jit(lambda a, n: echox.encode_speech(params, CFG, a, n))
  states, lengths = encode(audio, np.array([6400, 3200]))
  alone, length = encode(audio[1:, :3200], np.array([3200]))
  # 0.4 s and 0.2 s, and half a second of silence each
  assert lengths.tolist() == [45, 35] and length[0] == 35
  np.testing.assert_allclose(states[1, :35], alone[0, :35], atol=1e-4)
  assert encode(audio, np.array([6400, 0]))[1][1] == 0


def test_too_much_audio_is_refused(params):
  with pytest.raises(errors.AudioError, match='split it'):
    echox.encode_speech(params, CFG, np.zeros((1, 31 * 16000), np.float32), np.array([31 * 16000]))
