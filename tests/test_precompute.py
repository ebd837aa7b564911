"""Precompute fills the columns, skips what is done, keeps what was done when it is stopped, and names what is wrong."""

import dataclasses
import json
import subprocess
import sys

from data_pipeline import batches, dataset, journal, parts, precompute
from data_pipeline.schema import Example, Turn
from echox_jax import config, errors
from echox_jax.config import WhisperConfig
from echox_jax.models import whisper
from echox_jax.prompts import NANO_IDS
from echox_jax.tokenizer import precomputed_tokenizer, TextTokenizer
from echox_jax.training.experiment import ExperimentConfig
from echox_jax.units import extract, kmeans, unit_language
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

SMALL = WhisperConfig(hidden_size=16, intermediate_size=32, num_layers=2, num_heads=2, max_positions=120)
WORDS = 'red green blue black white yellow orange purple brown pink gray violet'.split()


@pytest.fixture(scope='module')
def encoders():
  mel = jnp.zeros((1, 8, SMALL.num_mel_bins))
  params = nn.meta.unbox(jax.jit(whisper.WhisperEncoder(SMALL).init)(jax.random.key(0), mel))['params']
  params = jax.tree.map(lambda x: 10 * x, params)  # states that differ
  units, speech = (extract.whisper_encoder(SMALL, params, layer, 0.1) for layer in (1, 2))
  return precompute.Encoders(lambda: units, lambda: speech)  # the same each time: compiled once


def write_raw(folder):
  rng = np.random.default_rng(0)
  sound = lambda: (3000 * np.sin(np.cumsum(rng.uniform(0, 1, rng.integers(9000, 14000))))).astype(np.int16)
  answer = lambda i: f'The sky over the {WORDS[i]} house is {WORDS[-i]}.'
  spoken = lambda i: Example(f'a{i}', (Turn('assistant', answer(i), audio=sound()),))
  asked = lambda i: Example(f'q{i}', (Turn('user', f'Which sky is over the {WORDS[i]} house?', audio=sound()), Turn('assistant', answer(i))))
  dataset.write_dataset(folder, 'answers', {'train': map(spoken, range(6)), 'holdout': map(spoken, range(6, 8))})
  dataset.write_dataset(folder, 'questions', {'train': map(asked, range(8)), 'test': map(asked, range(8, 10))})


def experiment(stage='t2c', units=None, **jobs):
  return config.build(ExperimentConfig, dict(
      stage=stage, tokenizer=dict(vocab_size=300), train=dict(batch_size=4),
      data=dict(sets=('answers/train',) if stage in ('t2c', 'vocoder') else ('questions/train',), max_tokens=160, max_states=80, segment_frames=20),
      precompute=dict(dict(kmeans_sets=('answers/train',), language_sets=('answers/train',), unit_sets=('answers/train', 'answers/holdout'),
                           batch_size=2), **jobs),
      model=dict(special_ids=dataclasses.asdict(NANO_IDS), audio_padding_seconds=0.1, llm=dict(vocab_size=300),
                 units=dict(dict(layer=1, num_units=12, vocab_size=30, padding_seconds=0.1, kmeans_iterations=4), **(units or {})))))


@pytest.fixture(scope='module')
def workdir(tmp_path_factory, encoders):
  folder = tmp_path_factory.mktemp('w')
  write_raw(folder / 'data')
  precompute.run(experiment(), folder, encoders, progress=False)
  return folder


def test_columns_hold_what_the_parts_give_one_by_one(workdir, encoders):
  raw, done = (list(dataset.read_examples(workdir / f, 'answers', 'holdout')) for f in ('data', 'precomputed'))
  centroids = kmeans.load(workdir / 'precomputed' / 'kmeans.safetensors')
  language = unit_language.UnitLanguage.load(workdir / 'precomputed' / 'unit_language.json')
  encoder = encoders.units()
  assert [e.id for e in raw] == [e.id for e in done]
  for before, after in zip(raw, done):
    (turn,), (filled,) = before.turns, after.turns
    (states,) = extract.encode_clips(encoder, [turn.audio / np.float32(32768)])
    np.testing.assert_array_equal(filled.units, kmeans.assign(states.layer.astype(np.float16).astype(np.float32), centroids))
    np.testing.assert_array_equal(filled.audio, turn.audio)
    assert filled.text == turn.text and len(filled.units) == len(turn.audio) // 320
    np.testing.assert_array_equal(language.decode(filled.unit_words), kmeans.reduce_units(filled.units)[0])
    assert filled.unit_words.max() < 30


def test_questions_hold_final_states_in_the_place_of_audio(workdir, encoders):
  encoder = encoders.speech()
  for split in ('train', 'test'):
    for before, after in zip(*(dataset.read_examples(workdir / f, 'questions', split) for f in ('data', 'precomputed'))):
      question = after.turns[0]
      (states,) = extract.encode_clips(encoder, [before.turns[0].audio / np.float32(32768)])
      np.testing.assert_allclose(question.states.astype(np.float32), states.final.astype(np.float32), atol=2e-2)
      assert not len(question.audio) and question.text == before.turns[0].text and after.turns[1].text


def test_stages_can_read_what_was_made(workdir):
  for stage in ('text', 's2t', 't2c', 'echo', 'vocoder'):
    settings = experiment(stage)
    assert next(batches.make_iterator(settings, workdir))
    assert batches.describe(settings, workdir)['left_out'] == {}


def test_report_and_tokenizer(workdir, encoders):
  report = precompute.run(experiment(), workdir, encoders, progress=False)
  assert report['ran'] == []
  assert TextTokenizer(workdir / 'precomputed' / 'tokenizer.model').vocab_size == report['tokenizer_vocab_size'] == 300
  assert report['sets']['answers/train']['clips'] == 6
  assert 0 < report['unit_words_per_second'] <= report['units_per_second'] <= 50
  assert set(report['compression']) == {'ngram', 'bpe', 'plain'} and report['compression']['plain']['units_per_word'] == 1
  assert not (workdir / 'precomputed' / 'parts' / 'states').exists()
  assert 'everything was there' in precompute.summary(report)


def test_only_what_changed_is_made_again(workdir, encoders, tmp_path):
  run = lambda **k: precompute.run(experiment(**k), tmp_path / 'w', encoders, progress=False)['ran']
  write_raw(tmp_path / 'w' / 'data')
  assert set(run()) >= {'tokenizer', 'kmeans', 'unit language', 'data set answers', 'data set questions'}
  assert run() == []
  assert run(units=dict(vocab_size=25)) == ['unit language', 'data set answers']
  again = run(units=dict(num_units=10, vocab_size=25))
  assert 'kmeans' in again and 'data set answers' in again and 'data set questions' not in again and 'tokenizer' not in again
  # The same inputs give the same results elsewhere.
  first, second = (list(dataset.read_examples(f / 'precomputed', 'questions', 'test')) for f in (workdir, tmp_path / 'w'))
  for a, b in zip(first, second):
    np.testing.assert_array_equal(a.turns[0].states, b.turns[0].states)


def test_a_run_that_is_stopped_goes_on_where_it_was(encoders, tmp_path, monkeypatch):
  write_raw(tmp_path / 'data')
  whole = parts.write_part

  def stopped(folder, arrays, dtype):
    if 'questions-test' in folder.name:
      def some():
        yield next(iter(arrays))
        raise KeyboardInterrupt
      return whole(folder, some(), dtype)
    return whole(folder, arrays, dtype)

  monkeypatch.setattr(parts, 'write_part', stopped)
  with pytest.raises(KeyboardInterrupt):
    precompute.run(experiment(), tmp_path, encoders, progress=False)
  monkeypatch.undo()
  done = set(json.loads((tmp_path / 'precomputed' / 'precompute.json').read_text())['steps'])
  assert {'tokenizer', 'kmeans', 'unit language', 'data set answers', 'states:questions/train:user'} <= done
  ran = precompute.run(experiment(), tmp_path, encoders, progress=False)['ran']
  assert ran == ['states:questions/test:user', 'data set questions']
  assert not [p for p in (tmp_path / 'precomputed').rglob('*.tmp')]


def test_given_files_are_used(workdir, encoders, tmp_path):
  write_raw(tmp_path / 'data')
  made = workdir / 'precomputed'
  settings = experiment(kmeans=str(made / 'kmeans.safetensors'))
  settings = dataclasses.replace(settings, tokenizer=dataclasses.replace(settings.tokenizer, model=str(made / 'tokenizer.model')))
  precompute.run(settings, tmp_path, encoders, progress=False)
  for name in ('kmeans.safetensors', 'tokenizer.model'):
    assert (tmp_path / 'precomputed' / name).read_bytes() == (made / name).read_bytes()


def test_a_byte_pair_tokenizer_is_used_and_can_be_replaced(workdir, encoders, tmp_path):
  tokenizers = pytest.importorskip('tokenizers', reason='the package tokenizers is not installed')
  made = tokenizers.Tokenizer(tokenizers.models.BPE())
  made.pre_tokenizer, made.decoder = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False), tokenizers.decoders.ByteLevel()
  special = [f'<|{i}|>' for i in range(16)]  # the ids that NANO_IDS takes
  made.train_from_iterator([' '.join(WORDS)], tokenizers.trainers.BpeTrainer(
      vocab_size=290, special_tokens=special, show_progress=False, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
  made.save(str(tmp_path / 'tokenizer.json'))
  write_raw(tmp_path / 'data')
  with_model = lambda stage, model: dataclasses.replace(experiment(stage, kmeans=str(workdir / 'precomputed' / 'kmeans.safetensors'), state_sets=()),
                                                        tokenizer=dataclasses.replace(experiment().tokenizer, model=str(model)))
  settings = with_model('t2c', tmp_path / 'tokenizer.json')
  assert precompute.run(settings, tmp_path, encoders, progress=False)['tokenizer_vocab_size'] == 290
  row = next(batches.make_iterator(settings, tmp_path))['input_ids'][0]
  answers = [example.turns[0].text for example in dataset.read_examples(tmp_path / 'data', 'answers', 'train')]
  assert any(answer in made.decode(row[row < 290].tolist()) for answer in answers)
  precompute.run(with_model('t2c', workdir / 'precomputed' / 'tokenizer.model'), tmp_path, encoders, progress=False)
  assert isinstance(precomputed_tokenizer(tmp_path / 'precomputed'), TextTokenizer)


@pytest.mark.parametrize('change, message', [
    (dict(units=dict(vocab_size=2000)), 'unit_decoder.unit_vocab_size'),
    (dict(units=dict(num_units=2000)), 'vocoder.num_units'),
    (dict(unit_sets=(), state_sets=()), 'nothing to do'),
    (dict(language_sets=('speech/train',)), 'speech/train'),
    (dict(kmeans='nowhere.safetensors'), 'nowhere.safetensors'),
    (dict(unit_sets=('answers/train', 'songs/train')), 'songs'),
    (dict(unit_sets=('answers/train', 'answers/dev')), 'dev'),
    (dict(state_sets=('answers/train',)), "no audio of role 'user'"),
])
def test_what_cannot_work_is_one_sentence(encoders, tmp_path, change, message):
  write_raw(tmp_path / 'data')
  with pytest.raises(errors.EchoXError, match=message) as caught:
    precompute.run(experiment(**change), tmp_path, encoders, progress=False)
  assert '\n' not in str(caught.value)


def test_kmeans_of_another_width_or_size_is_one_sentence(encoders, tmp_path):
  write_raw(tmp_path / 'data')
  rng = np.random.default_rng(0)
  for shape, message in (((12, 5), 'width 5'), ((11, 16), '11 units')):
    kmeans.save(tmp_path / 'k', rng.normal(size=shape))
    with pytest.raises(errors.ConfigError, match=message):
      precompute.run(experiment(kmeans=str(tmp_path / 'k')), tmp_path, encoders, progress=False)


def test_damaged_journal_and_short_clips_are_named(encoders, tmp_path):
  (tmp_path / 'j.json').write_text('{"steps": ')
  with pytest.raises(errors.DataError, match='delete it'):
    journal.Journal(tmp_path / 'j.json')
  write_raw(tmp_path / 'data')
  dataset.write_dataset(tmp_path / 'data', 'answers', {
      s: [Example('tiny one', (Turn('assistant', 'Red.', audio=np.ones(99, np.int16)),))] for s in ('train', 'holdout')})
  with pytest.raises(errors.DataError, match="'tiny one' has only 99 samples"):
    precompute.run(experiment(), tmp_path, encoders, progress=False)


def test_command_line_says_how_to_make_missing_data(tmp_path):
  done = subprocess.run([sys.executable, '-m', 'launch.precompute', '--config=configs/echox_nano.py', f'--workdir={tmp_path}'],
                        capture_output=True, text=True, check=False)
  assert done.returncode == 2 and done.stderr.startswith('error: ') and 'launch.corpus' in done.stderr and done.stderr.count('\n') == 1
