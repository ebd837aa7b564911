"""Where the texts of the talker come from: packages that are read where they are installed.

Nothing of them is part of this package. Texts under the GPL are read at run time only; a corpus
made with them stays with who made it.
"""

from collections.abc import Iterator
import dataclasses
import os
import pathlib
import re

from data_pipeline.corpus.talker.texts import SENTENCE_WORDS, Question, clean, normalised
from echox_jax import storage
from echox_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Source:
  """One source of texts.

  Attributes:
    name: as in the data sets.
    what: what it holds.
    licence: its licence.
    package: the package that carries it.
    installation: the command that installs it.
    module: the Python module that it lies in; empty for Debian's WordNet.
    inside: its folder in the module.
  """

  name: str
  what: str
  licence: str
  package: str
  installation: str
  module: str = ''
  inside: str = ''

  def folder(self) -> pathlib.Path:
    """Where it is installed. The environment variable WNSEARCHDIR names another folder of WordNet.

    Raises:
      DataError: it is not installed.
    """
    if self.module:
      package = storage.package_folder(self.module)
      folder = package / self.inside if package else None
    else:
      folder = pathlib.Path(os.environ.get('WNSEARCHDIR', '/usr/share/wordnet'))
    if folder is None or not folder.is_dir():
      raise DataError(
        f'{self.what} ({self.package}) are not installed: install them with `{self.installation}`.'
      )
    return folder

  def is_installed(self) -> bool:
    """Whether `folder` finds it."""
    try:
      return bool(self.folder())
    except DataError:
      return False


WORDNET = Source(
  'wordnet',
  'the example sentences and definitions of WordNet',
  'WordNet 3.0 (like BSD)',
  'wordnet-base',
  'apt-get install wordnet-base',
)
TRIVIA = Source(
  'red-trivia',
  'the trivia questions of Red',
  'GPL-3.0',
  'Red-Trivia',
  "pip install 'echox-jax[talker]'",
  'redbot',
  'ext/trivia/lists',
)
DIALOGUES = Source(
  'chatterbot',
  'the dialogues of ChatterBot',
  'BSD',
  'chatterbot-corpus',
  "pip install 'echox-jax[talker]'",
  'chatterbot_corpus',
  'data/english',
)
SOURCES = (WORDNET, TRIVIA, DIALOGUES)

# The lists of Red that ask in whole sentences: none about pictures or single games and films, and
# not that of American capitals, which the demo's facts ask for in other words.
TRIVIA_LISTS = (
  '2015 2016 artandliterature computers disney elements entertainment general greekmyth sports '
  'worldcapitals'
).split()
DIALOGUE_LISTS = (
  'ai botprofile computers conversations emotion food gossip greetings health history humor '
  'literature money movies politics psychology science sports trivia'
).split()
_ASKS = re.compile(
  r'(?:.*, )?(?:who|whose|whom|what|which|when|where|why|how|is|are|was|were|do|does|did|can|could|'
  r'will|would|should|have|has|name|tell|in|on|at|to|from|for|of|by|with|according)\b.*\?',
  re.IGNORECASE,
)
_REQUEST = re.compile(r'(?:please |name|tell|say|give|explain|show|sing|describe)\b', re.IGNORECASE)
_RUDE = re.compile(
  r'\b(?:sex\w*|fuck\w*|shit\w*|damn\w*|kill\w*|suicid\w*|drunk|naked|porn\w*|rape\w*|bend over|'
  r'stupid|idiot|hate you|die|hell|crap|ass|bitch\w*)\b',
  re.IGNORECASE,
)
_EXAMPLE = re.compile(r'"([^"]+)"')


def questions() -> Iterator[Question]:
  """The questions of all packages.

  Raises:
    DataError: a package is not installed, or holds other files than those that are known.
  """
  yield from trivia()
  yield from dialogues()


def trivia() -> Iterator[Question]:
  """The questions of Red with their accepted answers."""
  for name in TRIVIA_LISTS:
    for asked, answers in _yaml(TRIVIA, f'{name}.yaml').items():
      text = str(asked)
      if _ASKS.fullmatch(text) and not re.search(r'_|\.\.|http|\(', text):
        references = tuple(str(answer) for answer in answers or ())
        yield _question(text, 'trivia', TRIVIA, references)


def dialogues() -> Iterator[Question]:
  """What people begin the dialogues of ChatterBot with, where it asks or requests something. The
  answers of its trivia are references.
  """
  for name in DIALOGUE_LISTS:
    for dialogue in _yaml(DIALOGUES, f'{name}.yml')['conversations']:
      text = str(dialogue[0])
      if _RUDE.search(text) or not ('?' in text or _REQUEST.match(text)):
        continue
      is_trivia = name == 'trivia' and len(dialogue) > 1
      references = (str(dialogue[1]).strip().rstrip('.'),) if is_trivia else ()
      yield _question(text, 'trivia' if is_trivia else 'dialogue', DIALOGUES, references)


def sentences() -> Iterator[str]:
  """The example sentences and phrases of WordNet, each once.

  Raises:
    DataError: WordNet is not installed, or its files are others.
  """
  seen = set()
  for part in ('noun', 'verb', 'adj', 'adv'):
    for line in _text(WORDNET, f'data.{part}').splitlines():
      for example in _EXAMPLE.findall(line.partition(' | ')[2]):
        text = '' if _RUDE.search(example) else clean(example, SENTENCE_WORDS)
        if text and normalised(text) not in seen:
          seen.add(normalised(text))
          yield text


def definitions() -> Iterator[str]:
  """What WordNet says of people, places and other names, and of the nouns that its authors met in
  texts: `Arnhem, a city in the central Netherlands on the lower Rhine River.` They hold the words
  that sentences of every day rarely have, and that questions are about.

  Raises:
    DataError: WordNet is not installed, or its files are others.
  """
  met = {line.split()[0] for line in _text(WORDNET, 'cntlist.rev').splitlines()}
  for line in _text(WORDNET, 'data.noun').splitlines():
    head, _, gloss = line.partition(' | ')
    fields = head.split()
    if line.startswith(' '):  # the licence
      continue
    try:
      pairs = fields[4 : 4 + 2 * int(fields[3], 16)]  # a lemma, and which of its senses in its file
      lemmas, senses = pairs[::2], [int(sense, 16) for sense in pairs[1::2]]
    except (IndexError, ValueError) as error:
      raise DataError(_damaged(WORDNET, 'data.noun')) from error
    keys = [f'{lemma.lower()}%1:{fields[1]}:{sense:02}::' for lemma, sense in zip(lemmas, senses)]
    is_name = '@i' in fields  # an instance of a class
    said = re.split(r'[;(]', gloss)[0].strip()
    if said and (is_name or not met.isdisjoint(keys)):
      lemma = max(lemmas, key=len) if is_name else lemmas[0]  # people have their full names
      text = clean(f'{lemma.replace("_", " ")}, {said}', SENTENCE_WORDS)
      if text and not _RUDE.search(text):
        yield text


def _question(text: str, category: str, source: Source, references: tuple[str, ...]) -> Question:
  meaning = f'{source.name}/{normalised(clean(text))}'
  return Question(text, meaning, category, source.name, references)


def _yaml(source: Source, name: str) -> dict:
  import yaml

  try:
    value = yaml.load(_text(source, name), getattr(yaml, 'CSafeLoader', yaml.SafeLoader))
  except yaml.YAMLError as error:
    raise DataError(_damaged(source, name)) from error
  if not isinstance(value, dict):
    raise DataError(_damaged(source, name))
  return value


def _text(source: Source, name: str) -> str:
  try:
    return (source.folder() / name).read_text('utf-8')
  except (FileNotFoundError, UnicodeDecodeError) as error:
    raise DataError(_damaged(source, name)) from error


def _damaged(source: Source, name: str) -> str:
  return (
    f'{name} of {source.package} is missing or damaged: install it again with '
    f'`{source.installation}`.'
  )
