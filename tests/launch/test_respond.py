"""The command that answers: files in, files out, and one sentence for whatever cannot work."""

import dataclasses
import importlib.machinery
import importlib.util
import json
import sys
import threading
import time
import types

import numpy as np
import pytest
import soundfile

from echox_jax import audio, errors
from launch import cli, respond
from tests.helpers import tiny_model


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  return tiny_model.tiny_bundle(tmp_path_factory.mktemp('tiny'))


@pytest.fixture(autouse=True)
def loaded(monkeypatch, model):
  monkeypatch.setattr('echox_jax.load', lambda folder, **options: model)


def run(tmp_path, *args):
  respond.main(
    ['--checkpoint', 'unused', '-o', str(tmp_path / 'out' / 'reply.wav'), *map(str, args)]
  )


def fails(capsys, tmp_path, *args) -> str:
  with pytest.raises(SystemExit) as caught:
    cli.run(lambda: run(tmp_path, *args))
  assert caught.value.code == 2
  message = capsys.readouterr().err.splitlines()[-1]
  assert message.startswith('error: ') and not list((tmp_path / 'out').glob('*.wav'))
  return message


def test_questions_in_any_form_are_answered_in_text_and_sound(tmp_path, capsys):
  wave = tiny_model.question()
  soundfile.write(tmp_path / 'one.wav', np.stack([np.repeat(wave, 3)] * 2, 1), 48000)
  soundfile.write(tmp_path / 'two.flac', tiny_model.question(0.8, 1), 16000)
  run(
    tmp_path,
    tmp_path / 'one.wav',
    tmp_path / 'two.flac',
    '--text',
    'Paris?',
    '--json',
    tmp_path / 'reply.json',
  )
  out = capsys.readouterr().out
  reply = json.loads((tmp_path / 'reply.json').read_text())
  assert reply['text'] in out and 'slice 1' in out
  names = ['reply.wav', 'reply_2.wav', 'reply_3.wav']
  assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == names
  for name, told in zip(names, [reply, *reply['further']]):
    spoken = audio.load_audio(tmp_path / 'out' / name)
    assert abs(len(spoken) / 16000 - told['audio_s']) < 1e-3
    assert told['first_audio_s'] <= told['finished_s'] and sum(
      s['audio_s'] for s in told['slices']
    ) == pytest.approx(told['audio_s'], abs=0.01)


def test_what_is_left_out_of_the_speech_is_told(tmp_path, capsys, monkeypatch, model):
  fewer = dataclasses.replace(model, unit_language=tiny_model.pairs(12))
  monkeypatch.setattr('echox_jax.load', lambda folder, **options: fewer)
  run(tmp_path, '--text', 'Paris?', '--json', tmp_path / 'reply.json')
  missing = json.loads((tmp_path / 'reply.json').read_text())['overflow']['unknown_unit_words']
  assert (
    missing
    and f'note: {missing} unknown unit words were left out of the speech\n'
    in capsys.readouterr().out
  )


def test_without_an_output_answers_are_text(tmp_path, capsys):
  soundfile.write(tmp_path / 'one.wav', tiny_model.question(), 16000)
  respond.main(
    [
      '--checkpoint',
      'unused',
      str(tmp_path / 'one.wav'),
      '--text',
      'Paris?',
      '--json',
      str(tmp_path / 'reply.json'),
    ]
  )
  reply = json.loads((tmp_path / 'reply.json').read_text())
  assert reply['text'] in capsys.readouterr().out and reply['audio'] is None and not reply['slices']
  assert not list(tmp_path.glob('reply*.wav')) and len(reply['further']) == 1


def test_no_question(tmp_path, capsys):
  assert 'there is no question' in fails(capsys, tmp_path)


def test_missing_recording(tmp_path, capsys):
  assert 'no audio file' in fails(capsys, tmp_path, tmp_path / 'nowhere.wav')


def test_corrupt_recording_leaves_earlier_results_alone(tmp_path, capsys):
  (tmp_path / 'bad.wav').write_bytes(b'RIFF and then nothing of use')
  soundfile.write(tmp_path / 'good.wav', tiny_model.question(), 16000)
  fails(capsys, tmp_path, tmp_path / 'good.wav', tmp_path / 'bad.wav')


def test_silence_names_the_file(tmp_path, capsys):
  soundfile.write(tmp_path / 'mute.wav', np.zeros(16000), 16000)
  message = fails(capsys, tmp_path, tmp_path / 'mute.wav')
  assert 'mute.wav' in message and 'silent' in message


def test_too_long_a_recording_and_too_long_a_text(tmp_path, capsys):
  soundfile.write(tmp_path / 'long.wav', tiny_model.question(4.0), 16000)
  assert 'at most 3 s' in fails(capsys, tmp_path, tmp_path / 'long.wav')
  assert 'at most 48' in fails(capsys, tmp_path, '--text', 'two plus ' * 60)
  assert 'empty' in fails(capsys, tmp_path, '--text', ' ')


def test_output_must_be_a_wav_file_in_a_place_that_can_be_written(tmp_path, capsys):
  with pytest.raises(errors.EchoXError, match='ends in .wav'):
    respond.main(['--checkpoint', 'unused', '--text', 'Paris?', '-o', str(tmp_path / 'reply.mp3')])
  (tmp_path / 'file').write_text('')
  with pytest.raises(SystemExit) as caught:
    cli.run(
      lambda: respond.main(
        ['--checkpoint', 'unused', '--text', 'Paris?', '-o', str(tmp_path / 'file' / 'reply.wav')]
      )
    )
  assert caught.value.code == 2


def test_a_folder_that_is_no_model(tmp_path, capsys, monkeypatch):
  monkeypatch.undo()
  assert 'not an exported model' in fails(
    capsys, tmp_path, '--text', 'Paris?', '--checkpoint', tmp_path
  )


loudspeakers = []


class Loudspeaker:
  """A sound card: asks for samples, as PortAudio does, from a thread of its own."""

  def __init__(self, rate, channels, dtype, callback):
    assert (rate, channels, dtype) == (16000, 1, 'float32')
    self._callback, self._on = callback, threading.Event()
    self.heard = []
    loudspeakers.append(self)

  def start(self):
    self._on.set()
    threading.Thread(target=self._ask, daemon=True).start()

  def _ask(self):
    while self._on.is_set():
      out = np.full((500, 1), np.nan, np.float32)
      self._callback(out, 500, None, None)
      self.heard.append(out[:, 0])
      time.sleep(1e-4)

  def stop(self):
    self._on.clear()

  close = stop


def test_answers_are_played_while_they_are_made(tmp_path, monkeypatch):
  sounddevice = types.ModuleType('sounddevice')
  sounddevice.OutputStream, sounddevice.PortAudioError = Loudspeaker, type('E', (Exception,), {})
  sounddevice.__spec__ = importlib.machinery.ModuleSpec('sounddevice', None)
  monkeypatch.setitem(sys.modules, 'sounddevice', sounddevice)
  written = []
  monkeypatch.setattr('echox_jax.audio.write_wav', lambda path, wave: written.append(wave))
  run(tmp_path, '--text', 'Paris?', '--play')
  (spoken,) = written
  heard = np.concatenate(loudspeakers[-1].heard)
  assert np.isfinite(heard).all() and len(heard) >= len(spoken) > 0
  # windows of silence lie between pieces that came late; the sound itself is whole and in order
  np.testing.assert_array_equal(heard[heard != 0], spoken[spoken != 0])


def test_nothing_to_play_on(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  assert "needs the package 'sounddevice'" in fails(capsys, tmp_path, '--text', 'Paris?', '--play')


def test_questions_may_be_turns_of_a_conversation(tmp_path, model):
  run(
    tmp_path, '--text', 'Paris?', '--text', 'two plus two', '--chat', '--json', tmp_path / 'r.json'
  )
  told = json.loads((tmp_path / 'r.json').read_text())
  chat = dataclasses.replace(model).chat()
  assert told['text'] == chat.ask('Paris?').text
  assert told['further'][0]['text'] == chat.ask('two plus two').text
  assert told['further'][0]['text'] != dataclasses.replace(model).chat().ask('two plus two').text


def test_options_out_of_range(tmp_path, capsys):
  for option, message in (
    (('--top-k', -1), 'top-k -1'),
    (('--repetition-penalty', 0), 'repetition penalty 0'),
    (('--max-tokens', 0), 'max_tokens is 0'),
  ):
    assert message in fails(capsys, tmp_path, '--text', 'Paris?', *option)


def test_other_budgets(tmp_path, capsys):
  run(tmp_path, '--text', 'Paris?', '--engine', 'max_new_tokens=3', '--json', tmp_path / 'r.json')
  assert len(json.loads((tmp_path / 'r.json').read_text())['scores']) <= 3
  (tmp_path / 'out' / 'reply.wav').unlink()
  for wrong in ('max_tokens=3', 'max_new_tokens=x', 'max_new_tokens'):
    message = fails(capsys, tmp_path, '--text', 'Paris?', '--engine', wrong)
    assert f'--engine {wrong} is no budget' in message and 'max_new_tokens' in message
