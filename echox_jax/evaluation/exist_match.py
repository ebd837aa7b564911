"""exist-match: an answer is right if it contains one of the accepted answers word for word (paper:
scoring as in UltraEval-Audio).

The rule follows UltraEval-Audio, `audio_evals/evaluator/qa_exact_match.py` at commit 9b69da6, which
`registry/evaluator/qa.yaml` calls `qa-exist-match` and the tasks of Llama Questions, Web Questions
and TriviaQA use; line by line:

  55      a token is a run of letters, numbers and marks: [\\p{L}\\p{N}\\p{M}]+
  56, 64  or one other character that is neither separator nor control: [^\\p{Z}\\p{C}]
  71      tokens are compared in lower case
  81      both sides are NFD-normalised, 86 the answer, 90 each reference
  89      any of the references is enough
  92, 93  the tokens of a reference must stand in the answer one behind the other
  102     a single reference counts as a list of one

It differs for references without any token: there they match every answer (92, 93), here none.
`questions.check` refuses sets with blank ones.
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
