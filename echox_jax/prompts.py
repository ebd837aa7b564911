"""Special ids, chat templates and profiles: the only module that turns a conversation into ids.

A template belongs to a model. A layout lists the pieces of one part of a conversation in order:
names of `SpecialIds`, and one slot for the message, MESSAGE or LINE. LINE tokenizes the message
together with the line break before it, because byte-pair vocabularies have tokens of several line
breaks.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses

from echox_jax import errors

# The system message of released checkpoints at inference (facts 1).
RELEASED_SYSTEM_MESSAGE = (
  'You are a helpful language and speech assistant. You are able to understand the speech '
  'content that the user provides, '
  'and assist the user with a variety of tasks using natural language.'
)
IGNORE = -100  # label of a position that the losses ignore
# The prompt next to speech when the answer is its transcript. The prompt of the paper's stage I is
# unknown; this one is our choice.
TRANSCRIBE = 'Write down what is said.'
ROLES = ('system', 'user', 'assistant', 'speaker')
MESSAGE, LINE = 'MESSAGE', 'LINE'
_SEVERAL = ('nl', 'thought', *ROLES)  # fields of SpecialIds that may be several ids

Encode = Callable[[str], list[int]]
Ids = int | tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class SpecialIds:
  r"""Token ids with a fixed meaning. Defaults: Llama 3.1 with the added audio token (facts 1).

  Attributes:
    bos: starts a text where the template says so. In every profile the unit decoder also predicts
      it before its first unit word. A model whose template has no BOS uses an id that never occurs
      in its turns.
    start_header, end_header: enclose a role; some templates have no `end_header`.
    eot: ends a turn, an answer and a row of unit words.
    pad: padding.
    nl: the line break after a header: `\n`, or `\n\n` in Llama 3's own template.
    system, user, assistant, speaker: the roles. Each role, and `nl`, may be a tuple of several ids
      (`assistant` has two in SmolLM2). A tuple of one id becomes an int.
    thought: the empty thought of a model that would otherwise think aloud first, several ids; none
      in most templates.
    audio: placeholder that speech replaces.
    period: the trigger compares states with this id's row of the output head.
    typo_bos: the released code writes this id before a slice where BOS (128000) belongs; only the
      released profile uses it.
  """

  bos: int = 128000
  start_header: int = 128006
  end_header: int = 128007
  eot: int = 128009
  pad: int = 128009
  nl: Ids = 198
  system: Ids = 9125
  user: Ids = 882
  assistant: Ids = 78191
  speaker: Ids = 65576
  audio: int = 128256
  period: int = 13
  typo_bos: int = 12800
  thought: Ids = ()

  def __post_init__(self):
    for name in _SEVERAL:
      value = getattr(self, name)
      if not isinstance(value, int):
        object.__setattr__(self, name, value[0] if len(value) == 1 else tuple(value))

  def all(self) -> set[int]:
    """Returns every special id."""
    values = dataclasses.asdict(self)
    return {i for value in values.values() for i in ((value,) if isinstance(value, int) else value)}


# This library trains the nano tokenizer, so its special pieces directly follow <unk> = 0, in this
# order.
NANO_IDS = SpecialIds(
  bos=1,
  eot=2,
  pad=2,
  start_header=3,
  end_header=4,
  nl=5,
  system=6,
  user=7,
  assistant=8,
  speaker=9,
  audio=10,
  period=11,
  typo_bos=1,
)


@dataclasses.dataclass(frozen=True)
class Template:
  """The layout of a conversation.

  Attributes:
    opening: before the first turn.
    system: the system turn.
    user: a written question.
    spoken_user: a spoken question, with optional text (usually none).
    assistant: the header that asks the model to answer.
    answer: the model's target output, the supervised part.
    slice: a slice of an answer before its unit words, in the unit decoder's input.
    written: special id name -> its text in the tokenizers of these models. Unlisted names are
      roles, `nl` or `thought`.
    line_break: the text of `nl`.
    thought: the text of `thought`.
    trims: strips white space around a question. The system message is never stripped.
    after_answer: what stands between the EOT of an answer and the next question.
  """

  opening: str
  system: str
  user: str
  spoken_user: str
  assistant: str
  answer: str
  slice: str
  written: Mapping[str, str]
  line_break: str = '\n'
  thought: str = ''
  trims: bool = False
  after_answer: str = ''


_LLAMA_3_TOKENS = {
  'bos': '<|begin_of_text|>',
  'start_header': '<|start_header_id|>',
  'end_header': '<|end_header_id|>',
  'eot': '<|eot_id|>',
}
# Facts 1: lists of ids without separators. The released tokenizer starts every piece with BOS, so
# the template includes those BOS ids.
_PAPER = Template(
  opening='bos',
  system='start_header bos system end_header bos nl bos MESSAGE eot',
  user='start_header bos user end_header bos bos MESSAGE eot',
  spoken_user='start_header bos user end_header bos nl audio bos MESSAGE eot',
  assistant='start_header bos assistant end_header bos nl',
  answer='bos MESSAGE eot',
  slice='start_header bos assistant end_header bos nl bos MESSAGE eot '
  'start_header bos speaker end_header bos nl',
  written=_LLAMA_3_TOKENS,
)
_RELEASED = dataclasses.replace(
  _PAPER,
  slice='start_header bos speaker end_header bos nl typo_bos MESSAGE eot '
  'start_header bos speaker end_header bos nl',
)
# Here and below, we chose the places of AUDIO and `speaker`; the original templates have neither.
_CHATML = Template(
  opening='',
  system='start_header system LINE eot nl',
  user='start_header user LINE eot nl',
  spoken_user='start_header user nl audio MESSAGE eot nl',
  assistant='start_header assistant nl',
  answer='MESSAGE eot',
  slice='start_header assistant nl MESSAGE eot nl start_header speaker nl',
  written={'start_header': '<|im_start|>', 'eot': '<|im_end|>'},
  after_answer='nl',
)
# Qwen3's with `enable_thinking=False`: every answer begins after an empty thought. Its own template
# takes the empty thoughts out of earlier turns; here they stay, as they are in the KV cache.
_QWEN_3 = dataclasses.replace(
  _CHATML, assistant='start_header assistant nl thought', thought='<think>\n\n</think>\n\n'
)
_LLAMA_3 = Template(
  opening='bos',
  system='start_header system end_header LINE eot',
  user='start_header user end_header LINE eot',
  spoken_user='start_header user end_header nl audio MESSAGE eot',
  assistant='start_header assistant end_header nl',
  answer='MESSAGE eot',
  slice='start_header assistant end_header nl MESSAGE eot start_header speaker end_header nl',
  written=_LLAMA_3_TOKENS,
  line_break='\n\n',
  trims=True,
)


@dataclasses.dataclass(frozen=True)
class Profile:
  """A chat template, and conventions on which released code and paper differ (facts 13 and 14).

  Attributes:
    name: the name in configs.
    template: the layout of prompts, answers and slices.
    unspoken: special ids whose predicting states are not spoken; all other ids of an answer are
      spoken. The released first slice also includes the state that predicted BOS.
    mask_prompt_eot: at inference, prompt EOTs are masked as keys.
    free_unit_ids: at inference the unit decoder predicts BOS itself and may predict any id.
      Otherwise BOS is given and only EOT and unit words can follow.
    mask_unit_eot: the unit decoder masks every EOT as a key, including EOTs inside the row.
    unit_id_limit: units with this id or a higher one are dropped before the vocoder; None = no
      limit.
  """

  name: str
  template: Template
  unspoken: tuple[str, ...] = ('bos', 'eot')
  mask_prompt_eot: bool = False
  free_unit_ids: bool = False
  mask_unit_eot: bool = False
  unit_id_limit: int | None = None


PROFILES = {
  profile.name: profile
  for profile in (
    Profile('paper', _PAPER),
    Profile(
      'released',
      _RELEASED,
      unspoken=('eot',),
      mask_prompt_eot=True,
      free_unit_ids=True,
      mask_unit_eot=True,
      unit_id_limit=1000,
    ),
    Profile('chatml', _CHATML),
    Profile('llama3', _LLAMA_3),
    Profile('qwen3', _QWEN_3),
  )
}


def get_profile(name: str) -> Profile:
  """Returns the profile called `name`.

  Raises:
    ConfigError: there is no such profile.
  """
  if name not in PROFILES:
    raise errors.ConfigError(f'profile {name!r} is unknown: use one of {", ".join(PROFILES)}.')
  return PROFILES[name]


def encode_system(profile: Profile, encode: Encode, message: str) -> list[int]:
  """Encodes a system message for `question_prompt`; an empty result means no system turn."""
  return _encoded(profile.template, profile.template.system, encode, message) if message else []


def encode_question(profile: Profile, encode: Encode, text: str, audio: bool) -> list[int]:
  """Encodes a written question, or the text that accompanies speech, for `question_prompt`."""
  template = profile.template
  layout = template.spoken_user if audio else template.user
  return _encoded(template, layout, encode, text.strip() if template.trims else text)


def question_prompt(
  ids: SpecialIds,
  profile: Profile,
  system: Sequence[int],
  text: Sequence[int],
  audio: bool,
  first: bool = True,
) -> list[int]:
  """Builds the prompt ids of one question, up to the start of the answer.

  Args:
    ids, profile: of the model.
    system: result of `encode_system`; empty = no system turn. Read where the question is the first.
    text: result of `encode_question`.
    audio: whether the question has speech, which replaces the single AUDIO id.
    first: whether the question opens the conversation; otherwise it follows the EOT of an answer.
  """
  template = profile.template
  before = opening(ids, profile, system) if first else _laid_out(ids, template.after_answer)
  asked = _laid_out(ids, template.spoken_user if audio else template.user, text)
  return [*before, *asked, *_laid_out(ids, template.assistant)]


def before_speech(ids: SpecialIds, profile: Profile) -> list[int]:
  """Returns the ids before the speech of a first question without a system turn."""
  before = _laid_out(ids, f'{profile.template.opening} {profile.template.spoken_user}')
  return before[: before.index(ids.audio)]


def opening(ids: SpecialIds, profile: Profile, system: Sequence[int]) -> list[int]:
  """Returns the ids that a conversation opens with, whatever is asked: as for `question_prompt`."""
  told = _laid_out(ids, profile.template.system, system) if system else []
  return [*_laid_out(ids, profile.template.opening), *told]


def answer(ids: SpecialIds, profile: Profile, text: Sequence[int]) -> list[int]:
  """Builds the target after the prompt, the supervised part: `text EOT` or `BOS text EOT`."""
  return _laid_out(ids, profile.template.answer, text)


def unspoken_ids(ids: SpecialIds, profile: Profile) -> tuple[int, ...]:
  """Returns the ids of an answer whose predicting states are not spoken."""
  return tuple(getattr(ids, name) for name in profile.unspoken)


def markers(ids: SpecialIds) -> tuple[int, ...]:
  """Returns the ids that mark turns and speech; text never contains them."""
  return ids.bos, ids.eot, ids.pad, ids.audio, ids.start_header, ids.end_header


def slice_prefix(ids: SpecialIds, profile: Profile) -> list[int]:
  """Returns the ids before the text (or states) of a slice in the unit decoder's input."""
  return _laid_out(ids, profile.template.slice.partition(MESSAGE)[0])


def slice_suffix(ids: SpecialIds, profile: Profile) -> list[int]:
  """Returns the ids between the text of a slice and its unit words; the next id is BOS."""
  return _laid_out(ids, profile.template.slice.partition(MESSAGE)[2])


def text_to_codec_row(
  ids: SpecialIds, profile: Profile, text: Sequence[int], unit_words: Sequence[int], vocab_size: int
) -> tuple[list[int], list[int]]:
  """Returns (input ids, labels) of one text-to-codec example.

  In every profile, only `BOS <units> EOT` has labels (facts 6, stage II). `unit_words` are ids from
  0; the row offsets them by the size of the text vocabulary.
  """
  prompt = _laid_out(ids, profile.template.slice, text)
  target = [ids.bos, *(vocab_size + u for u in unit_words), ids.eot]
  return [*prompt, *target], [IGNORE] * len(prompt) + target


def _encoded(template: Template, layout: str, encode: Encode, message: str) -> list[int]:
  return encode(template.line_break + message if LINE in layout.split() else message)


def _laid_out(ids: SpecialIds, layout: str, message: Sequence[int] = ()) -> list[int]:
  """Returns the ids of a layout with `message` in its slot."""
  found: list[int] = []
  for name in layout.split():
    value = message if name in (MESSAGE, LINE) else getattr(ids, name)
    found.extend([value] if isinstance(value, int) else value)
  return found
