"""The text tokenizers give text back, keep special ids to themselves and fail in one sentence."""

import json
import shutil
import sys

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from echox_jax import errors, tokenizer
from echox_jax.prompts import NANO_IDS

TEXTS = [
  f'{start} {thing} {end}'
  for start in ('What is the capital of', 'Tell me about', 'Where do I find')
  for thing in (
    'France',
    'the Czech Republic',
    'Côte d’Ivoire',
    'Peru',
    'seventeen plus twenty-three',
    'hydrogen',
  )
  for end in ('please?', 'today?', 'The answer is Paris. It is in Europe.', 'Number 42!')
]


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  return tokenizer.train_tokenizer(TEXTS, tmp_path_factory.mktemp('t') / 'tokenizer.model', 340)


def test_vocabulary_is_exact_and_special_ids_come_first(model):
  assert model.vocab_size == 340
  assert model.piece(0) == '<unk>'
  assert model.piece(NANO_IDS.audio) == '<|audio|>' and model.piece(NANO_IDS.eot) == '<|eot|>'
  assert model.encode('Paris.')[-1] == NANO_IDS.period and model.piece(NANO_IDS.period) == '.'


def test_case_digits_and_unseen_characters_come_back(model):
  for text in (
    *TEXTS,
    'PARIS paris',
    'été 日本語 🙂',
    '3.5 and 1,000',
    '. leading',
    'user assistant system',
  ):
    assert model.decode(model.encode(text)) == text
  assert model.decode(model.encode('  two   spaces\n here ')) == 'two spaces here'
  assert model.encode('') == []


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec='ascii', exclude_categories=('Cc',)), max_size=30))
def test_any_plain_text_comes_back(model, text):
  assert model.decode(model.encode(text)) == ' '.join(text.split())


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=20))
def test_text_never_becomes_a_special_id(model, text):
  special = set(range(NANO_IDS.period))
  for written in (text, f'<|audio|>{text}<|eot|>', f'</s> <s> {text} <unk>'):
    assert not special & set(model.encode(written))


def test_special_ids_are_skipped_in_text(model):
  ids = [
    NANO_IDS.bos,
    *model.encode('Paris'),
    NANO_IDS.audio,
    NANO_IDS.eot,
    NANO_IDS.eot,
    340,
    -100,
  ]
  assert model.decode(ids) == 'Paris'


def test_sentences_encode_alike_alone_and_in_a_text(model):
  first, second = 'The answer is Paris.', 'It is in Europe.'
  assert model.encode(f'{first} {second}') == model.encode(first) + model.encode(second)


def test_training_is_deterministic(model, tmp_path):
  paths = [tmp_path / name for name in 'ab']
  for path in paths:
    tokenizer.train_tokenizer(TEXTS, path, 340)
  assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize('texts, size', [(TEXTS, 5000), (TEXTS, 280), ([], 340), (['  '], 340)])
def test_impossible_training_is_one_sentence_and_writes_nothing(texts, size, tmp_path):
  with pytest.raises(errors.DataError, match='tokenizer'):
    tokenizer.train_tokenizer(texts, tmp_path / 'x.model', size)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('content', [None, b'', b'not a model', bytes(range(256)) * 4])
def test_missing_or_damaged_file_is_one_sentence(content, tmp_path):
  path = tmp_path / 'tokenizer.model'
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(errors.DataError, match='tokenizer|SentencePiece'):
    tokenizer.TextTokenizer(path)


# Byte-pair files of other models


@pytest.fixture(scope='module')
def bpe_file(tmp_path_factory):
  tokenizers = pytest.importorskip('tokenizers', reason='the package tokenizers is not installed')
  made = tokenizers.Tokenizer(tokenizers.models.BPE())
  made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = tokenizers.decoders.ByteLevel()
  made.train_from_iterator(
    TEXTS,
    tokenizers.trainers.BpeTrainer(
      vocab_size=340,
      special_tokens=['<|begin|>', '<|end|>'],
      show_progress=False,
      initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    ),
  )
  made.add_tokens(['<|unit_▁837|>'])  # as released files add unit words: not as special tokens
  path = tmp_path_factory.mktemp('bpe') / 'tokenizer.json'
  made.save(str(path))
  return path


@pytest.fixture(scope='module')
def bpe(bpe_file):
  return tokenizer.BpeTokenizer(bpe_file)


def test_bpe_vocabulary(bpe):
  assert bpe.vocab_size == 341
  assert [bpe.piece(i) for i in (0, 1, 340)] == ['<|begin|>', '<|end|>', '<|unit_▁837|>']
  assert bpe.piece(5000) == ''
  assert len(bpe.encode('What is the capital of France please?')) < 12


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=('Cs',)), max_size=20))
def test_any_text_comes_back_through_bpe_without_special_ids(bpe, text):
  for written in (text, f'<|begin|>{text}<|end|> <|unit_▁837|>'):
    ids = bpe.encode(written)
    assert not {0, 1, 340} & set(ids) and bpe.decode(ids) == written


def test_special_ids_are_skipped_in_bpe_text(bpe):
  assert bpe.decode([0, *bpe.encode('Paris'), 340, 1, 341, -100]) == 'Paris'


def test_bpe_text_grows_character_by_character(bpe):
  """What the engine streams: a text that ends in U+FFFD waits, and what has been shown never
  changes.
  """
  text, shown = 'un été 日本語 🙂 fin', ''
  ids = bpe.encode(text)
  assert len(ids) > len(text)  # most of these characters take several ids
  for n in range(1, len(ids) + 1):
    whole = bpe.decode(ids[:n])
    assert whole.startswith(shown)
    if not whole.endswith('\ufffd'):
      shown = whole
  assert shown == text


@pytest.mark.parametrize('content', [None, '', '{', '{}', '{"model": 3}', '[]'])
def test_missing_or_damaged_bpe_file_is_one_sentence(content, tmp_path):
  pytest.importorskip('tokenizers', reason='the package tokenizers is not installed')
  path = tmp_path / 'tokenizer.json'
  if content is not None:
    path.write_text(content)
  with pytest.raises(errors.DataError, match='tokenizer'):
    tokenizer.BpeTokenizer(path)


def test_bpe_without_its_package_names_the_extra(tmp_path, monkeypatch):
  (tmp_path / 'tokenizer.json').write_text(json.dumps({}))
  monkeypatch.setitem(sys.modules, 'tokenizers', None)
  with pytest.raises(errors.MissingExtraError, match=r'echox-jax\[bpe\]'):
    tokenizer.load_tokenizer(tmp_path)


def test_tokenizer_of_a_model_folder(bpe_file, tmp_path):
  assert tokenizer.load_tokenizer(tmp_path) is None
  tokenizer.train_tokenizer(TEXTS, tmp_path / 'tokenizer.model', 340)
  assert tokenizer.load_tokenizer(tmp_path).vocab_size == 340
  shutil.copyfile(bpe_file, tmp_path / 'tokenizer.json')
  assert isinstance(tokenizer.load_tokenizer(tmp_path), tokenizer.BpeTokenizer)
