"""Finds the profile whose prompts match the chat template of a tokenizer.

A chat template is a Jinja program. It is run on two questions, and its output is compared with the
output of each profile. So templates are recognised by their output, not by their wording.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
from typing import Any, NamedTuple

from echox_jax import errors, prompts
from echox_jax.config import EchoXConfig
from echox_jax.conversion import special_tokens

_SYSTEM, _QUESTION = 'Be brief.', 'Is it late?'
_TRAINED_HERE = ('paper', 'released')  # EchoX's own: work with any vocabulary; the first is default


@dataclasses.dataclass(frozen=True)
class ForeignTokenizer:
  """What a foreign tokenizer says about the prompts of its model.

  Attributes:
    what: names the tokenizer in messages.
    tokens: its vocabulary, special tokens included; empty if it cannot be read.
    encoder: makes text -> ids, without special ids.
    template: its chat template, or None.
    bos, eos: its own first and last token, or None.
  """

  what: str
  tokens: Mapping[str, int]
  encoder: Callable[[], prompts.Encode]
  template: str | None = None
  bos: str | None = None
  eos: str | None = None


class Chat(NamedTuple):
  """The prompt layout of a model.

  Attributes:
    profile: name of the profile.
    system_message: the template's default system message.
    notes: sentences for the user.
    taught: whether the model is known to have been trained on prompts of this profile.
  """

  profile: str
  system_message: str = ''
  notes: tuple[str, ...] = ()
  taught: bool = False


def configured(
  cfg: EchoXConfig, tokenizer: ForeignTokenizer, chosen: str | None
) -> tuple[EchoXConfig, tuple[str, ...]]:
  """A config with the profile, special ids and system message of a model, plus notes for the user.

  Args:
    cfg: the model's other settings.
    tokenizer: the model's tokenizer.
    chosen: name of the profile that the user wants. None = the profile that matches the template,
      or `paper` if there is no template.

  Raises:
    ConfigError: there is no such profile.
    CheckpointError: the template matches no profile, or the vocabulary lacks a token of it.
    MissingExtraError: a package is not installed.
  """
  chat = _choose(tokenizer, chosen)
  profile = prompts.get_profile(chat.profile)
  if chat.profile in _TRAINED_HERE and not chat.taught:
    own = (tokenizer.tokens.get(token) for token in (tokenizer.bos, tokenizer.eos))
    ids = (
      special_tokens.as_far_as_found(tokenizer.tokens, *own)
      if tokenizer.tokens
      else cfg.special_ids
    )
  else:
    ids = special_tokens.of_template(profile, tokenizer.tokens, tokenizer.encoder(), tokenizer.what)
  made = dataclasses.replace(
    cfg, profile=chat.profile, special_ids=ids, system_message=chat.system_message
  )
  return made, chat.notes


def _choose(tokenizer: ForeignTokenizer, chosen: str | None) -> Chat:
  profiles = prompts.PROFILES if chosen is None else {chosen: prompts.get_profile(chosen)}
  if tokenizer.template is not None:
    variables = {
      'bos_token': tokenizer.bos or '',
      'eos_token': tokenizer.eos or '',
      'enable_thinking': False,  # what a speaking model thinks cannot be heard, and it takes time
    }
    found = recognise(tokenizer.template, variables, profiles.values())
    if found is None and chosen is None:
      raise errors.CheckpointError(
        f'{tokenizer.what} has a chat template that matches no profile: '
        f'choose one of {", ".join(profiles)} with --profile.'
      )
    if found is not None:
      return found
  if chosen is not None:
    return Chat(chosen)
  default = _TRAINED_HERE[0]
  return Chat(
    default,
    notes=(
      f'{tokenizer.what} has no chat template: prompts use the profile {default!r}, '
      'on which the model has to be trained (--profile chooses another).',
    ),
  )


def recognise(
  template: str, variables: Mapping[str, Any], candidates: Iterable[prompts.Profile]
) -> Chat | None:
  """The first profile whose output matches that of a chat template; None = no profile matches.

  White space around a message is ignored.

  Args:
    template: Jinja.
    variables: variables that it may use: `bos_token`, `eos_token`, `enable_thinking`.
    candidates: profiles.

  Raises:
    MissingExtraError: the package `jinja2` is not installed.
  """
  system, question = (
    {'role': role, 'content': text} for role, text in (('system', _SYSTEM), ('user', _QUESTION))
  )
  alone, told = (_render(template, said, variables) for said in ([question], [system, question]))
  for profile in candidates:
    default, said = (_system_turn(profile.template, text) for text in (alone, told))
    if default is None or said not in (_SYSTEM, f'{default}{_SYSTEM}'):
      continue
    notes = [f'The chat template is that of the profile {profile.name!r}.']
    if profile.template.thought:
      notes.append('It is used with enable_thinking=False: the model answers without thinking.')
    if default:
      notes.append(f'Its system message is {default!r}.')
    if default and said != _SYSTEM:
      notes.append(
        'The template writes this before any other system message too, perhaps with the day of '
        'the question: system_message in config.json is the whole turn, so append your own to it.'
      )
    return Chat(profile.name, default, tuple(notes), taught=True)
  return None


def _system_turn(template: prompts.Template, text: str | None) -> str | None:
  """The content of the system turn before the question; '' if there is no system turn.

  None if `text` has another layout or is None.
  """
  if text is None:
    return None
  opening = _written(template, template.opening)
  rest = _written(template, template.user, _QUESTION) + _written(template, template.assistant)
  before, _, after = _written(template, template.system, '\0').partition('\0')
  before, after = opening + before, after + rest
  if text == opening + rest:
    return ''
  if not (
    text.startswith(before) and text.endswith(after) and len(text) > len(before) + len(after)
  ):
    return None
  inside = text[len(before) : len(text) - len(after)]
  return None if any(token in inside for token in template.written.values()) else inside


def _written(template: prompts.Template, layout: str, message: str = '') -> str:
  """A layout as text."""
  texts = {
    prompts.MESSAGE: message,
    prompts.LINE: template.line_break + message,
    'nl': template.line_break,
    'thought': template.thought,
    **{role: role for role in prompts.ROLES},
    **template.written,
  }
  return ''.join(texts[name] for name in layout.split())


def _render(
  template: str, messages: list[dict[str, str]], variables: Mapping[str, Any]
) -> str | None:
  """The output of a template for a conversation; None if the template fails.

  It is run as transformers runs it, but without the date: templates that ask for the date have a
  default for that case.
  """
  try:
    from jinja2 import sandbox
  except ImportError as error:
    raise errors.MissingExtraError('jinja2', 'bpe', 'The chat template of a tokenizer') from error
  environment = sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=['jinja2.ext.loopcontrols']
  )
  environment.globals['raise_exception'] = _refuse
  try:
    return environment.from_string(template).render(
      messages=messages, add_generation_prompt=True, tools=None, documents=None, **variables
    )
  except Exception:  # a template is a foreign program: if it fails, no profile can match it
    return None


def _refuse(message: str) -> Any:
  """Called by a template to reject a conversation."""
  raise ValueError(message)
