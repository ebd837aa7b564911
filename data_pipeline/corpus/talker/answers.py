"""What the text model itself answers: the knowledge that the spoken model is to keep.

Answers are greedy and cut at the end of a sentence. They are made in shards of questions, so that a
job that was stopped goes on where it was.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import json
import re

from tqdm import tqdm

from data_pipeline.fingerprints import file_fingerprint, fingerprint
from data_pipeline.shards import SharedWork, ranges
from echox_jax import model_folder
from echox_jax.errors import CheckpointError
from echox_jax.storage import Path

SHARD = 256  # questions that are answered before their answers are kept
SENTENCES = 3  # of an answer, at most
_PROMPT_TOKENS, _ANSWER_TOKENS = 128, 64
_TOGETHER = 128  # questions that are answered at the same time
_STEP = 'answering'

_SENTENCE = re.compile(r'.*?[.!?]["\')]*(?=\s+["\'(]?[A-Z\d]|\s*$)')
_NO_END = re.compile(r'(?:\b(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|Prof|vs|etc|No|e\.g|i\.e)|\b[A-Z])\.$')
# what a voice can say as it stands: no lists, formulas, code, links
_SPEAKABLE = re.compile(r'(?!\d+\.$|-\s|.*(?:https?:|www\.))[\w\s,.?!\'"$%&()/:;’“”–—-]+')


def packaged_model(folder: Path) -> Path:
  """The folder of the packaged SmolLM2, which is imported into it unless it is there.

  Raises:
    MissingExtraError: the package is not installed.
    EchoXError: as `importers.open_model`.
  """
  from echox_jax.conversion import importers, packaged_llm

  if not model_folder.is_model(folder):
    model = importers.open_model('llama-gguf', packaged_llm.packaged_file())
    importers.write_model(model, folder)
  return folder


def check_model(folder: Path) -> None:
  """Raises CheckpointError if there is no model in the folder."""
  if not model_folder.is_model(folder):
    raise CheckpointError(
      f'{folder} holds no model: import a chat model with `python -m launch.convert import`, or '
      'leave out --llm for the packaged SmolLM2.'
    )


def answer(
  work: SharedWork, questions: Sequence[str], llm: Path, *, progress: bool = False
) -> list[str]:
  """Answers written questions.

  Args:
    work: the job, whose scratch folder keeps the shards.
    questions: the texts.
    llm: model folder.
    progress: whether to show a bar.

  Returns:
    the whole text that the model wrote for each question; it may end within a sentence.
  """
  model = file_fingerprint(llm / model_folder.WEIGHTS), file_fingerprint(llm / model_folder.CONFIG)
  shards = [questions[numbers.start : numbers.stop] for numbers in ranges(len(questions), SHARD)]
  folder = work.scratch / 'answers'
  outputs = {
    folder / f'{i:05d}.json': fingerprint(shard, model, _ANSWER_TOKENS)
    for i, shard in enumerate(shards)
  }
  engine = functools.cache(functools.partial(_engine, llm))
  todo = sum(len(shards[i]) for i in work.unfinished(outputs))
  with tqdm(total=todo, desc=_STEP, unit='question', disable=not progress, mininterval=1.0) as bar:

    def make(number: int, beside: Path) -> dict[str, int]:
      said = _answer(engine(), shards[number])
      beside.write_text(json.dumps(said), 'utf-8')
      bar.update(len(said))
      return {'questions': len(said)}

    work.run(_STEP, outputs, make)
  work.keep_only(outputs)
  return [text for path in outputs for text in json.loads(path.read_text('utf-8'))]


def cut(text: str) -> str:
  """The first one to three sentences of a text, as they are; empty if it has no whole sentence that
  can be spoken.
  """
  kept: list[str] = []
  for sentence in sentences(text):
    if not _SPEAKABLE.fullmatch(sentence) or sentence in kept or len(kept) == SENTENCES:
      break
    kept.append(sentence)
  return ' '.join(kept)


def sentences(text: str) -> Iterator[str]:
  """The whole sentences of the first paragraph of a text."""
  paragraph, begun = text.strip().partition('\n')[0], ''
  for found in _SENTENCE.finditer(paragraph):
    begun += found[0]
    if not _NO_END.search(begun):
      yield begun.strip()
      begun = ''


def _engine(folder: Path):
  from echox_jax.inference.engine import Engine

  model = model_folder.load(folder)
  budgets = dataclasses.replace(
    model.engine,
    max_prompt_tokens=_PROMPT_TOKENS,
    max_new_tokens=_ANSWER_TOKENS,
    max_context=_PROMPT_TOKENS + _ANSWER_TOKENS,  # more would be read over in every step
    conversations=_TOGETHER,
    questions=_TOGETHER // 2,
  )
  return Engine(dataclasses.replace(model, engine=budgets), hears=False, speaks=False)


def _answer(engine, questions: Sequence[str]) -> list[str]:
  from echox_jax.inference.answering import Request

  requests = [Request(text=text) for text in questions]
  return [events[-1].text for events in engine.answers(requests)]
