"""The settings of a session: what the client may change, each field for itself."""

from collections.abc import Mapping
import dataclasses
from typing import Any, Literal

from echox_jax.serving import fields, formats
from echox_jax.serving.formats import AudioFormat
from echox_jax.serving.refusals import Refusal
from echox_jax.serving.turns import TurnRule

MODALITIES = ('audio', 'text')
_LONGEST = 100_000  # letters of a text in the settings
_MOST_TOKENS = 4096  # that the protocol can ask for
# Silence that ends a turn, in ms, where the client leaves the judgement to the server.
_EAGER = {'low': 1000, 'medium': 500, 'auto': 500, 'high': 300}
# Fields of the protocol that this model has no use for: they are kept and shown, no more.
_KEPT = (
  *('include', 'prompt', 'tools', 'tool_choice', 'tracing', 'truncation', 'reasoning'),
  'parallel_tool_calls',
)
_SESSION = (
  *('type', 'model', 'output_modalities', 'instructions', 'audio', 'max_output_tokens', 'sampling'),
  *_KEPT,
)
_VAD = (
  *('type', 'threshold', 'prefix_padding_ms', 'silence_duration_ms', 'create_response'),
  *('interrupt_response', 'idle_timeout_ms', 'eagerness'),
)


@dataclasses.dataclass(frozen=True)
class Choosing:
  """How tokens are chosen, an addition to the protocol; see `inference.answering.Request`."""

  temperature: float = 0.0
  top_p: float = 1.0
  top_k: int = 0
  repetition_penalty: float = 1.0
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of a session.

  Attributes:
    model: its name, as the client was told.
    output_modalities: `('audio',)`, speech and its transcript, or `('text',)`.
    instructions: kept and shown; the model was trained with a system message of its own.
    input_format, output_format: of sound.
    turn_rule: when a spoken turn ends; None = the client commits.
    noise_reduction: kept and shown.
    transcription: whether clients are told the words of what they say; None = they are not. What is
      in it, such as the name of a model, is kept and shown.
    voice: kept and shown; the model has one voice.
    max_output_tokens: of an answer; `'inf'` = the budget of the model.
    choosing: how tokens are chosen.
    kept: other fields of the protocol.
  """

  model: str
  output_modalities: tuple[str, ...] = ('audio',)
  instructions: str = ''
  input_format: AudioFormat = AudioFormat()
  output_format: AudioFormat = AudioFormat()
  turn_rule: TurnRule | None = TurnRule()
  noise_reduction: Mapping[str, Any] | None = None
  transcription: Mapping[str, Any] | None = None
  voice: str = 'echox'
  max_output_tokens: int | Literal['inf'] = 'inf'
  choosing: Choosing = Choosing()
  kept: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def speaks(self) -> bool:
    """Whether answers are spoken."""
    return 'audio' in self.output_modalities

  def to_json(self, session_id: str) -> dict[str, Any]:
    """The session object of the protocol."""
    return {
      'type': 'realtime',
      'object': 'realtime.session',
      'id': session_id,
      'model': self.model,
      'output_modalities': list(self.output_modalities),
      'instructions': self.instructions,
      'audio': {
        'input': {
          'format': self.input_format.to_json(),
          'noise_reduction': self.noise_reduction,
          'transcription': self.transcription,
          'turn_detection': _rule_json(self.turn_rule),
        },
        'output': {'format': self.output_format.to_json(), 'voice': self.voice, 'speed': 1.0},
      },
      'max_output_tokens': self.max_output_tokens,
      'sampling': dataclasses.asdict(self.choosing),
      'tools': [],
      'tool_choice': 'auto',
    } | dict(self.kept)


def updated(settings: Settings, session: Any) -> Settings:
  """Changes the fields that `session` of a `session.update` has; null puts back the default.

  Raises:
    Refusal: a field that there is not, or a value that cannot be; nothing is changed.
  """
  values = fields.mapping(session, 'session')
  fields.known(values, _SESSION, 'session')
  if values.get('type', 'realtime') != 'realtime':
    raise fields.wrong('session.type', "'realtime'")
  changes: dict[str, Any] = {}
  if 'output_modalities' in values:
    changes['output_modalities'] = modalities(
      values['output_modalities'], 'session.output_modalities'
    )
  if 'instructions' in values:
    changes['instructions'] = fields.text(
      '' if values['instructions'] is None else values['instructions'],
      'session.instructions',
      _LONGEST,
    )
  if 'max_output_tokens' in values:
    changes['max_output_tokens'] = most_tokens(
      values['max_output_tokens'], 'session.max_output_tokens'
    )
  if 'sampling' in values:
    changes['choosing'] = choosing(settings.choosing, values['sampling'], 'session.sampling')
  sound = fields.mapping(values.get('audio'), 'session.audio')
  fields.known(sound, ('input', 'output'), 'session.audio')
  changes |= _input(settings, fields.mapping(sound.get('input'), 'session.audio.input'))
  changes |= _output(fields.mapping(sound.get('output'), 'session.audio.output'))
  kept = dict(settings.kept)
  for name in _KEPT:
    if name in values:
      kept[name] = values[name]
      if values[name] is None:
        del kept[name]
  return dataclasses.replace(settings, **changes, kept=kept)


def modalities(value: Any, where: str) -> tuple[str, ...]:
  """Gives `('audio',)` or `('text',)`; both together mean audio, whose transcript is text."""
  if value is None:
    return ('audio',)
  names = [fields.choice(name, where, MODALITIES) for name in fields.items(value, where)]
  if not names:
    raise fields.wrong(where, "['audio'] or ['text']")
  return ('audio',) if 'audio' in names else ('text',)


def most_tokens(value: Any, where: str) -> int | Literal['inf']:
  """Gives the tokens that an answer may have."""
  if value is None or value == 'inf':
    return 'inf'
  return fields.whole(value, where, 1, _MOST_TOKENS)


def choosing(before: Choosing, value: Any, where: str) -> Choosing:
  """Changes the numbers that `value` has; null puts back the default.

  Raises:
    Refusal: there is no such number, or it is out of range.
  """
  if value is None:
    return Choosing()
  values = fields.mapping(value, where)
  names = tuple(field.name for field in dataclasses.fields(Choosing))
  fields.known(values, names, where)
  checks = {
    'temperature': lambda own, at: fields.number(own, at, 0, 10),
    'top_p': lambda own, at: fields.number(own, at, 1e-6, 1),
    'top_k': lambda own, at: fields.whole(own, at, 0, 2**31 - 1),
    'repetition_penalty': lambda own, at: fields.number(own, at, 0.01, 100),
    'seed': lambda own, at: fields.whole(own, at, -(2**63), 2**63),
  }
  default = Choosing()
  changes = {
    name: getattr(default, name) if own is None else checks[name](own, f'{where}.{name}')
    for name, own in values.items()
  }
  return dataclasses.replace(before, **changes)


def _input(settings: Settings, values: Mapping[str, Any]) -> dict[str, Any]:
  where, changes = 'session.audio.input', {}
  fields.known(values, ('format', 'noise_reduction', 'transcription', 'turn_detection'), where)
  if 'format' in values:
    changes['input_format'] = _format(values['format'], f'{where}.format')
  for name in ('noise_reduction', 'transcription'):
    if name in values:
      own = values[name]
      changes[name] = None if own is None else fields.mapping(own, f'{where}.{name}')
  if 'turn_detection' in values:
    changes['turn_rule'] = _rule(
      settings.turn_rule, values['turn_detection'], f'{where}.turn_detection'
    )
  return changes


def _output(values: Mapping[str, Any]) -> dict[str, Any]:
  where, changes = 'session.audio.output', {}
  fields.known(values, ('format', 'voice', 'speed'), where)
  if 'format' in values:
    changes['output_format'] = _format(values['format'], f'{where}.format')
  if 'voice' in values:
    changes['voice'] = voice(values['voice'], f'{where}.voice')
  if values.get('speed') not in (None, 1):
    raise Refusal(
      'this model speaks at one speed: leave out session.audio.output.speed, or set it to 1.0.',
      'unsupported_value',
      param=f'{where}.speed',
    )
  return changes


def voice(value: Any, where: str) -> str:
  """Gives the name of a voice; clients may also send an object with its `id`."""
  if value is None:
    return 'echox'
  if isinstance(value, dict):
    value = value.get('id')
  return fields.text(value, where, 64)


def _format(value: Any, where: str) -> AudioFormat:
  return AudioFormat() if value is None else formats.parse_format(value, where)


def _rule(before: TurnRule | None, value: Any, where: str) -> TurnRule | None:
  if value is None:
    return None
  values = fields.mapping(value, where)
  fields.known(values, _VAD, where)
  kind = fields.choice(
    values.get('type', 'server_vad'), f'{where}.type', ('server_vad', 'semantic_vad')
  )
  if kind == 'semantic_vad':
    eagerness = fields.choice(
      values.get('eagerness') or 'auto', f'{where}.eagerness', tuple(_EAGER)
    )
    rule = TurnRule(silence_duration_ms=_EAGER[eagerness], eagerness=eagerness)
  else:
    rule = before if before is not None and before.eagerness is None else TurnRule()
  checks = {
    'threshold': lambda own, at: fields.number(own, at, 0, 1),
    'prefix_padding_ms': lambda own, at: fields.whole(own, at, 0, 5000),
    'silence_duration_ms': lambda own, at: fields.whole(own, at, 32, 10_000),
    'create_response': fields.truth,
    'interrupt_response': fields.truth,
  }
  changes = {
    name: getattr(TurnRule(), name)
    if values[name] is None
    else check(values[name], f'{where}.{name}')
    for name, check in checks.items()
    if name in values
  }
  if values.get('idle_timeout_ms') is not None:
    fields.whole(values['idle_timeout_ms'], f'{where}.idle_timeout_ms', 1000, 600_000)
  return dataclasses.replace(rule, **changes)


def _rule_json(rule: TurnRule | None) -> dict[str, Any] | None:
  if rule is None:
    return None
  own = {'create_response': rule.create_response, 'interrupt_response': rule.interrupt_response}
  if rule.eagerness:
    return {'type': 'semantic_vad', 'eagerness': rule.eagerness} | own
  return {
    'type': 'server_vad',
    'threshold': rule.threshold,
    'prefix_padding_ms': rule.prefix_padding_ms,
    'silence_duration_ms': rule.silence_duration_ms,
    'idle_timeout_ms': None,
  } | own
