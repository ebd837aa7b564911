"""Special ids, chat templates and profiles: the one place that knows how a conversation becomes
ids.

A template is data of the model. A layout lists what a part of a conversation consists of, in order:
names of `SpecialIds`, and one slot for what is said, MESSAGE or LINE. LINE is a message that is
read together with the line break before it: byte-pair vocabularies have tokens of several ones.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses

from echox_jax import errors

# What released checkpoints are told at inference (facts 1).
RELEASED_SYSTEM_MESSAGE = (
  'You are a helpful language and speech assistant. You are able to understand the speech '
  'content that the user provides, '
  'and assist the user with a variety of tasks using natural language.'
)
IGNORE = -100  # label of a position that no loss counts
# What stands beside speech whose transcript is the answer. What stage I of the paper asks there is
# not known: this is ours.
TRANSCRIBE = 'Write down what is said.'
ROLES = ('system', 'user', 'assistant', 'speaker')
MESSAGE, LINE = 'MESSAGE', 'LINE'
_SEVERAL = ('nl', *ROLES)  # fields of SpecialIds that may be several ids

Encode = Callable[[str], list[int]]
Ids = int | tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class SpecialIds:
  r"""Token ids with a fixed meaning. Defaults: Llama 3.1 with the added audio token (facts 1).

  Attributes:
    bos: what stands before a text where the template says so. In every profile it is also what the
      unit decoder says before its first unit word; a model whose template has no BOS takes an id
      for it that none of its turns contains.
    start_header, end_header: around a role; templates without the latter do not use it.
    eot: ends a turn, an answer and a row of unit words.
    pad: fills rows up.
    nl: the line break after a header, `\n` or in Llama 3's own template `\n\n`.
    system, user, assistant, speaker: the roles. They and `nl` may take several ids (`assistant` is
      two in SmolLM2): then it is a tuple. A tuple of one id becomes an int.
    audio: speech takes its place.
    period: the trigger compares states with this id's row of the output head.
    typo_bos: what the released code writes where BOS (128000) belongs before a slice; only its
      profile uses it.
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

  def __post_init__(self):
    for name in _SEVERAL:
      value = getattr(self, name)
      if not isinstance(value, int):
        object.__setattr__(self, name, value[0] if len(value) == 1 else tuple(value))

  def all(self) -> set[int]:
    """Every id that has a meaning."""
    values = dataclasses.asdict(self)
    return {i for value in values.values() for i in ((value,) if isinstance(value, int) else value)}


# The nano tokenizer is trained here, so its special pieces come first, in this order, after <unk> =
# 0.
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
  """How a conversation is laid out.

  Attributes:
    opening: before the first turn.
    system: the system turn.
    user: a written question.
    spoken_user: a question with speech, and what is written beside it (mostly nothing).
    assistant: what asks the model to answer.
    answer: what it is to say then, the supervised part.
    slice: a slice of an answer before its unit words, in the unit decoder's input.
    written: id -> how the tokenizers of such models write it; what is not listed is a role or `nl`.
    line_break: what `nl` is as text.
    trims: white space around a question is left out. The system message is always taken as it is.
    after_answer: between the EOT of an answer and the next question.
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
  trims: bool = False
  after_answer: str = ''


_LLAMA_3_TOKENS = {
  'bos': '<|begin_of_text|>',
  'start_header': '<|start_header_id|>',
  'end_header': '<|end_header_id|>',
  'eot': '<|eot_id|>',
}
# Facts 1: lists of ids without separators. The tokenizer starts every piece with BOS: that is part
# of it.
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
# Where AUDIO and `speaker` stand is ours, here and below: these templates know neither.
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
  """A chat template, and conventions in which released code and paper differ (facts 13 and 14).

  Attributes:
    name: what configs call it.
    template: how prompts, answers and slices are laid out.
    unspoken: special ids whose predicting states are not spoken; what an answer consists of beside
      them is. The released first slice also holds the state that predicted BOS.
    mask_prompt_eot: at inference, prompt EOTs are invisible as keys.
    free_unit_ids: at inference the unit decoder says BOS itself and may say any id; else BOS is
      given and only EOT and unit words can follow.
    mask_unit_eot: in the unit decoder every EOT, inside ones too, is invisible as a key.
    unit_id_limit: units from this id on are dropped before the vocoder; None = none.
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
  )
}


def get_profile(name: str) -> Profile:
  """The profile called `name`.

  Raises:
    ConfigError: there is none.
  """
  if name not in PROFILES:
    raise errors.ConfigError(f'profile {name!r} is unknown: use one of {", ".join(PROFILES)}.')
  return PROFILES[name]


def encode_system(profile: Profile, encode: Encode, message: str) -> list[int]:
  """The ids of a system message for `question_prompt`; none = no system turn."""
  return _encoded(profile.template, profile.template.system, encode, message) if message else []


def encode_question(profile: Profile, encode: Encode, text: str, audio: bool) -> list[int]:
  """The ids of a written question, or of what is written beside speech, for `question_prompt`."""
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
  """The ids of one question, up to where the answer begins.

  Args:
    ids, profile: of the model.
    system: of `encode_system`; empty = no system turn.
    text: of `encode_question`.
    audio: whether speech comes with it; it takes the place of the one AUDIO id.
    first: whether it opens the conversation; else it follows the EOT of an answer.
  """
  template = profile.template
  before = _laid_out(ids, template.opening if first else template.after_answer)
  told = _laid_out(ids, template.system, system) if system else []
  asked = _laid_out(ids, template.spoken_user if audio else template.user, text)
  return [*before, *told, *asked, *_laid_out(ids, template.assistant)]


def answer(ids: SpecialIds, profile: Profile, text: Sequence[int]) -> list[int]:
  """What the model is to say after the prompt, the supervised part: `text EOT`, or BOS before
  it.
  """
  return _laid_out(ids, profile.template.answer, text)


def unspoken_ids(ids: SpecialIds, profile: Profile) -> tuple[int, ...]:
  """The ids of an answer whose predicting states are not spoken."""
  return tuple(getattr(ids, name) for name in profile.unspoken)


def markers(ids: SpecialIds) -> tuple[int, ...]:
  """The ids that mark turns and speech: none of them is ever part of a text."""
  return ids.bos, ids.eot, ids.pad, ids.audio, ids.start_header, ids.end_header


def slice_prefix(ids: SpecialIds, profile: Profile) -> list[int]:
  """What stands before the text (or states) of a slice in the unit decoder's input."""
  return _laid_out(ids, profile.template.slice.partition(MESSAGE)[0])


def slice_suffix(ids: SpecialIds, profile: Profile) -> list[int]:
  """What stands between the text of a slice and its unit words; after it the decoder says BOS."""
  return _laid_out(ids, profile.template.slice.partition(MESSAGE)[2])


def text_to_codec_row(
  ids: SpecialIds, profile: Profile, text: Sequence[int], unit_words: Sequence[int], vocab_size: int
) -> tuple[list[int], list[int]]:
  """(input ids, labels) of one text-to-codec example.

  Labels are only on `BOS <units> EOT` (facts 6, stage II), in every profile. `unit_words` are ids
  of the unit vocabulary from 0; in the row they follow the text vocabulary.
  """
  prompt = _laid_out(ids, profile.template.slice, text)
  target = [ids.bos, *(vocab_size + u for u in unit_words), ids.eot]
  return [*prompt, *target], [IGNORE] * len(prompt) + target


def _encoded(template: Template, layout: str, encode: Encode, message: str) -> list[int]:
  return encode(template.line_break + message if LINE in layout.split() else message)


def _laid_out(ids: SpecialIds, layout: str, message: Sequence[int] = ()) -> list[int]:
  """The ids of a layout, `message` in its slot."""
  found: list[int] = []
  for name in layout.split():
    value = message if name in (MESSAGE, LINE) else getattr(ids, name)
    found += [value] if isinstance(value, int) else value
  return found
