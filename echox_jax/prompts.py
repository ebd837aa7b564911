"""Special ids, the chat template and the two compatibility profiles: the only place that knows an id.

The template is the released one (facts 1): id lists are concatenated with no separators, and the tokenizer's habit of
starting every piece with BOS is part of it.
"""

from collections.abc import Sequence
import dataclasses

from echox_jax import errors

# What released checkpoints are told at inference (facts 1).
RELEASED_SYSTEM_MESSAGE = (
    'You are a helpful language and speech assistant. You are able to understand the speech content that the user provides, '
    'and assist the user with a variety of tasks using natural language.')
IGNORE = -100  # label of a position that no loss counts
# What stands beside speech whose transcript is the answer. What stage I of the paper asks there is not known: this is ours.
TRANSCRIBE = 'Write down what is said.'


@dataclasses.dataclass(frozen=True)
class SpecialIds:
  """Token ids with a fixed meaning. Defaults: Llama 3.1 with the added audio token (facts 1).

  `typo_bos` is what the released code writes where BOS (128000) belongs before a slice; only its profile uses it.
  """
  bos: int = 128000
  start_header: int = 128006
  end_header: int = 128007
  eot: int = 128009
  pad: int = 128009
  nl: int = 198
  system: int = 9125
  user: int = 882
  assistant: int = 78191
  speaker: int = 65576
  audio: int = 128256
  period: int = 13
  typo_bos: int = 12800


# The nano tokenizer is trained here, so its special pieces come first, in this order, after <unk> = 0.
NANO_IDS = SpecialIds(bos=1, eot=2, pad=2, start_header=3, end_header=4, nl=5, system=6, user=7, assistant=8, speaker=9,
                      audio=10, period=11, typo_bos=1)


@dataclasses.dataclass(frozen=True)
class Profile:
  """Conventions in which the released code and the paper differ (facts 13 and 14).

  Attributes:
    name: what configs call it.
    mask_prompt_eot: at inference, prompt EOTs are invisible as keys.
    slice_role: header of the text part of a slice.
    slice_bos: which special id comes after that header: bos, or the released code's typo_bos.
    keep_bos_state: the first slice also holds the state that predicted BOS.
    free_unit_ids: at inference the unit decoder says BOS itself and may say any id; else BOS is given and only EOT and
      unit words can follow.
    mask_unit_eot: in the unit decoder every EOT, inside ones too, is invisible as a key.
    unit_id_limit: units from this id on are dropped before the vocoder; None = none.
  """
  name: str
  mask_prompt_eot: bool = False
  slice_role: str = 'assistant'
  slice_bos: str = 'bos'
  keep_bos_state: bool = False
  free_unit_ids: bool = False
  mask_unit_eot: bool = False
  unit_id_limit: int | None = None


PROFILES = {
    'paper': Profile('paper'),
    'released': Profile('released', mask_prompt_eot=True, slice_role='speaker', slice_bos='typo_bos', keep_bos_state=True,
                        free_unit_ids=True, mask_unit_eot=True, unit_id_limit=1000),
}


def get_profile(name: str) -> Profile:
  """The profile called `name`.

  Raises:
    ConfigError: there is none.
  """
  if name not in PROFILES:
    raise errors.ConfigError(f'profile {name!r} is unknown: use one of {", ".join(PROFILES)}.')
  return PROFILES[name]


def header(ids: SpecialIds, role: str) -> list[int]:
  """`SH BOS role EH BOS`: the opening of a turn; role is system, user, assistant or speaker."""
  return [ids.start_header, ids.bos, getattr(ids, role), ids.end_header, ids.bos]


def system_turn(ids: SpecialIds, message: Sequence[int]) -> list[int]:
  """`BOS` and the system turn; with an empty message just `BOS`."""
  return [ids.bos, *header(ids, 'system'), ids.nl, ids.bos, *message, ids.eot] if message else [ids.bos]


def user_turn(ids: SpecialIds, text: Sequence[int], audio: bool) -> list[int]:
  """A user turn: one AUDIO id that the speech takes the place of, then the text (may be empty)."""
  speech = [ids.nl, ids.audio] if audio else []
  return [*header(ids, 'user'), *speech, ids.bos, *text, ids.eot]


def generation_prompt(ids: SpecialIds) -> list[int]:
  """What asks the model to answer; its first output token is BOS."""
  return [*header(ids, 'assistant'), ids.nl]


def answer(ids: SpecialIds, text: Sequence[int]) -> list[int]:
  """What the model is to say after the generation prompt: `BOS text EOT`, the supervised part."""
  return [ids.bos, *text, ids.eot]


def question_prompt(ids: SpecialIds, system: Sequence[int], text: Sequence[int], audio: bool) -> list[int]:
  """The ids of one question up to and including the generation prompt."""
  return [*system_turn(ids, system), *user_turn(ids, text, audio), *generation_prompt(ids)]


def slice_prefix(ids: SpecialIds, profile: Profile) -> list[int]:
  """What stands before the text (or states) of a slice in the unit decoder's input."""
  return [*header(ids, profile.slice_role), ids.nl, getattr(ids, profile.slice_bos)]


def slice_suffix(ids: SpecialIds) -> list[int]:
  """What stands between the text of a slice and its unit words; the decoder's first output is BOS."""
  return [ids.eot, *header(ids, 'speaker'), ids.nl]


def text_to_codec_row(ids: SpecialIds, profile: Profile, text: Sequence[int], unit_words: Sequence[int],
                      vocab_size: int) -> tuple[list[int], list[int]]:
  """(input ids, labels) of one text-to-codec example; labels only on `BOS <units> EOT` (facts 6, stage II).

  `unit_words` are ids of the unit vocabulary from 0; in the row they follow the text vocabulary.
  """
  prompt = [*slice_prefix(ids, profile), *text, *slice_suffix(ids)]
  target = answer(ids, [vocab_size + u for u in unit_words])
  return [*prompt, *target], [IGNORE] * len(prompt) + target
