"""Scoring what a model hears: error rates by voice, refusals, and a stage that cannot speak yet."""

import dataclasses
import json

import numpy as np
import pytest

from echox_jax import audio, errors
from echox_jax.conversion import assemble
from echox_jax.evaluation import robustness, transcripts
from echox_jax.evaluation.questions import Question
from echox_jax.inference.engine import Engine
from launch import evaluate
from tests.helpers import tiny_model

for package in ('whisper_normalizer', 'scipy'):
  pytest.importorskip(package, reason="the scores need the extra 'eval'")


class Ear:
  """Hears the words that a sound stands for; number 9 is too long for it."""

  class config:
    class special_ids:
      audio = 0

  def __init__(self, words):
    self.words, self.tokenizer = words, self

  def hear(self, sound):
    if sound == 9:
      raise errors.AudioError('too long: split it.')
    return self

  def ids(self, blank):
    assert blank == 0
    return [5]

  def decode(self, ids):
    assert ids == [5]
    return self.words


def asked(text, sound, voice):
  return Question(f'{text}{voice}', text, sound=lambda: sound, voice=voice)


def test_errors_are_counted_in_words_by_voice():
  questions = [
    asked('What is seven?', 1, 'a'),
    asked('What is it?', 1, 'b'),
    asked('Go away.', 9, 'b'),
  ]
  heard = transcripts.hear(Ear(' what is 7 '), questions)
  assert [(own.edits, own.words) for own in heard] == [(0, 3), (1, 3), (2, 2)]
  scores = transcripts.summarise(heard)
  assert scores['transcript_wer']['value'] == pytest.approx(3 / 8) and scores['questions'] == 3
  assert scores['by_voice']['a']['transcript_wer']['value'] == 0
  assert scores['by_voice']['b']['transcript_wer']['value'] == pytest.approx(3 / 5)
  assert scores['refused'] == 1 and heard[2].refused.startswith('too long')


@pytest.fixture
def data(tmp_path):
  lines = ['id\tquestion\tquestion_audio\tspeaker\tcategory\tanswer\treferences']
  for i in range(3):
    audio.write_wav(tmp_path / f'{i}.wav', tiny_model.question(1.0, i))
    lines.append(f'q{i}\tWhat is {i}?\t{i}.wav\tvoice{i % 2}\tsums\tAlpha.\talpha')
  (tmp_path / 'list.tsv').write_text('\n'.join(lines) + '\n')
  return tmp_path / 'list.tsv'


def test_the_command_writes_down_what_the_adapter_hears(data, tmp_path, monkeypatch):
  bundle = tiny_model.tiny_bundle(tmp_path)
  adapter = dataclasses.replace(bundle.config.adapter, tied_ctc=True, drop_blank=True)
  cfg = dataclasses.replace(bundle.config, adapter=adapter)
  deaf = {'echo', 'denoising_adapter', 'unit_text_embedding', 'vocoder'}
  params = {name: tree for name, tree in tiny_model.tiny_params(cfg).items() if name not in deaf}
  bundle = dataclasses.replace(bundle, config=cfg, params=params)
  monkeypatch.setattr(assemble, 'assemble_hearing', lambda folder: bundle)
  out = tmp_path / 'heard'
  given = ['--transcripts', '--checkpoint', str(tmp_path), '--data', str(data), '--out', str(out)]
  evaluate.main([*given, '--noise'])
  scores = json.loads((out / 'transcripts.json').read_text())
  rows = [json.loads(line) for line in (out / 'transcripts.jsonl').read_text().splitlines()]
  assert scores['questions'] == 3 and set(scores['by_voice']) == {'voice0', 'voice1'}
  engine = Engine(bundle, speaks=False)
  for i, row in enumerate(rows):
    ids = engine.hear(audio.load_audio(tmp_path / f'{i}.wav')).ids(cfg.special_ids.audio)
    assert row['heard'] == engine.tokenizer.decode(ids).strip()
  assert len({row['heard'] for row in rows}) > 1
  noise = [json.loads(line) for line in (out / 'noise.jsonl').read_text().splitlines()]
  counted = scores['no_question']
  assert counted['silence'] == {'sounds': 4, 'refused': 4} and counted['backwards']['sounds'] == 3
  for kind, count in counted.items():
    assert count['refused'] == sum(row['kind'] == kind and not row['text'] for row in noise)
  errors_of_all = sum(row['edits'] for row in rows) / sum(row['words'] for row in rows)
  assert scores['transcript_wer']['value'] == pytest.approx(errors_of_all, abs=1e-4)


def test_what_does_not_hear_is_refused(data, tmp_path):
  (tmp_path / 't2c').mkdir()
  given = ['--transcripts', '--checkpoint', str(tmp_path / 't2c'), '--data', str(data)]
  with pytest.raises(errors.CheckpointError, match='a stage that hears'):
    evaluate.main([*given, '--out', str(tmp_path / 'out')])
  with pytest.raises(errors.ConfigError, match='leave --rescore'):
    evaluate.main([*given, '--out', str(tmp_path / 'out'), '--rescore'])
  with pytest.raises(errors.ConfigError, match='option of --transcripts'):
    evaluate.main([*given[1:], '--out', str(tmp_path / 'out'), '--noise'])


def test_sounds_without_words():
  clips = list(robustness.sounds())
  again = list(robustness.sounds())
  assert len(clips) > 30 and len({kind for kind, _ in clips}) == len(clips) / 4
  for (kind, wave), (_, other) in zip(clips, again):
    np.testing.assert_array_equal(wave, other)
    assert wave.dtype == np.float32 and np.abs(wave).max() <= 1, kind
    assert (np.abs(wave).max() > 1e-5) == (kind != 'silence')
  ahead = asked('What?', np.arange(5.0), 'a')
  ((kind, wave),) = robustness.backwards([ahead])
  assert kind == 'backwards' and wave.tolist() == [4, 3, 2, 1, 0]


def test_what_is_heard_in_noise_is_counted():
  heard = robustness.hear(Ear(' the '), [('hum', 1), ('hum', 9), ('taps', 9)])  # 9 is refused
  assert [own.text for own in heard] == ['the', '', '']
  assert robustness.summarise(heard) == {
    'hum': {'sounds': 2, 'refused': 1},
    'taps': {'sounds': 1, 'refused': 1},
  }


def test_questions_need_words_and_sound():
  from echox_jax.evaluation import questions

  good = asked('What?', np.zeros(9), 'a')
  questions.check_transcribed([good], 'mine')
  with pytest.raises(errors.DataError, match='lacks text'):
    questions.check_transcribed([good, asked(' ', 1, 'b')], 'mine')
  with pytest.raises(errors.DataError, match='lacks sound'):
    questions.check_transcribed([dataclasses.replace(good, sound=None)], 'mine')
