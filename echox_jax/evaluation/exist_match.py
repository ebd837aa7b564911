"""exist-match: an answer is right if it contains one of the accepted answers word for word (paper:
scoring as in UltraEval-Audio).
"""

from collections.abc import Iterable, Sequence
import unicodedata


def tokenise(text: str) -> list[str]:
  """Lower-case tokens of NFD-normalised text: runs of letters, digits and marks, or single other
  characters that are not spaces.
  """
  tokens, run = [], ''
  for char in unicodedata.normalize('NFD', text):
    kind = unicodedata.category(char)[0]
    if kind in 'LNM':
      run += char
      continue
    if run:
      tokens.append(run)
      run = ''
    if kind not in 'ZC':  # separators and control characters count as spaces
      tokens.append(char)
  if run:
    tokens.append(run)
  return [token.lower() for token in tokens]


def exist_match(answer: str, references: Iterable[str]) -> bool:
  """Whether the tokens of any reference occur contiguously in the tokens of the answer. A reference
  without tokens never matches.
  """
  tokens = tokenise(answer)
  return any(_contains(tokens, tokenise(reference)) for reference in references)


def _contains(tokens: Sequence[str], part: Sequence[str]) -> bool:
  return bool(part) and any(
    tokens[i : i + len(part)] == part for i in range(len(tokens) - len(part) + 1)
  )
