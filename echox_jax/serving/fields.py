"""Checked fields of JSON objects that clients send."""

from collections.abc import Iterable, Mapping
from typing import Any

from echox_jax.serving.refusals import Refusal

_SHOWN = 64  # letters of a name that is told back, which may be as long as a message


def known(values: Mapping[str, Any], names: Iterable[str], where: str) -> None:
  """Refuses fields that the protocol does not have.

  Raises:
    Refusal: there is another field than `names`.
  """
  for name in values:
    if name not in names:
      raise Refusal(
        f'{where} has no field {name[:_SHOWN]!r}: leave it out, or use one of '
        f'{", ".join(sorted(names))}.',
        'unknown_parameter',
        param=f'{where}.{name[:_SHOWN]}',
      )


def mapping(value: Any, where: str) -> Mapping[str, Any]:
  """Gives an object, an empty one for null; raises Refusal for anything else."""
  if value is None:
    return {}
  if not isinstance(value, dict):
    raise wrong(where, 'a JSON object')
  return value


def items(value: Any, where: str) -> list[Any]:
  """Gives a list; raises Refusal for anything else."""
  if not isinstance(value, list):
    raise wrong(where, 'a list')
  return value


def text(value: Any, where: str, longest: int | None = None) -> str:
  """Gives a string that UTF-8 can write; raises Refusal for anything else."""
  if not isinstance(value, str):
    raise wrong(where, 'a string')
  try:
    value.encode('utf-8')
  except UnicodeEncodeError as error:
    raise wrong(where, 'a string without half characters (lone surrogates)') from error
  if longest is not None and len(value) > longest:
    raise wrong(where, f'a string of at most {longest} characters')
  return value


def number(value: Any, where: str, least: float, most: float) -> float:
  """Gives a finite number from `least` to `most`; raises Refusal for anything else."""
  plain = isinstance(value, int | float) and not isinstance(value, bool)
  if not plain or not least <= value <= most:  # nan is in no range, and an int may fit no float
    raise wrong(where, f'a number from {least:g} to {most:g}')
  return value


def whole(value: Any, where: str, least: int, most: int) -> int:
  """Gives a whole number from `least` to `most`; raises Refusal for anything else."""
  if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
    raise wrong(where, f'a whole number from {least} to {most}')
  return value


def truth(value: Any, where: str) -> bool:
  """Gives true or false; raises Refusal for anything else."""
  if not isinstance(value, bool):
    raise wrong(where, 'true or false')
  return value


def choice(value: Any, where: str, names: Iterable[str]) -> str:
  """Gives one of `names`; raises Refusal for anything else."""
  if not isinstance(value, str) or value not in names:
    raise wrong(where, f'one of {", ".join(names)}')
  return value


def wrong(where: str, wanted: str) -> Refusal:
  """Makes the refusal of a field; it does not repeat the value, which may be long or private."""
  return Refusal(f'{where} must be {wanted}: correct it.', 'invalid_value', param=where)
