"""Which letter of a multiple choice an answer gives.

VoiceBench (`src/evaluator/mcq.py` at commit 5338154) looks for some 190 phrases, one after another;
the first that occurs decides, and within it the first letter of the alphabet. They are of three
kinds, which are the three steps here, and of each kind the first place in the answer decides:

  1. a phrase that says so: "the answer is B", "answer: **C**", "I would choose option D"
  2. a letter that is set off: " B.", " B,", " B:", " B)", "(B)", "**B.", '"B"'
  3. an answer that is the letter, or begins with it: "b", "b. lake erie"

Where no letter is found VoiceBench draws one by chance. Here such an answer is wrong, and counted
in `unread_choices`; a quarter of them added gives what VoiceBench expects.
"""

import re

_MARK = r'["\'*({\\\[\s]*'
_SAYS = re.compile(
  r'(?:answer(?: to the (?:multiple[- ]choice )?question)?(?: is|:| would be| should be)'
  r'|(?:select|choose|choice is|option is|is|be|was|to|as) (?:the )?option|\bi\'d say'
  r'|would (?:select|choose|be)|is (?:most )?(?:likely|typically)(?: to be)?)'
  rf'\s*:?{_MARK}(?:option\s*)?{_MARK}([abcd])(?![a-z\'])'
  r'|(?:^|\W)([abcd]) is (?:the best answer|correct|the correct)'
  r'|答案(?:应该是|就是|是|选)(?:选项)?[\s:：‘\']*([abcd])|(?:^|\W)([abcd])是正确'
)
_SET_OFF = re.compile(r'(?:[\s"(]|\*\*)([abcd])[.,:)]|[("{]([abcd])[)"}]')
_BEGINS = re.compile(r'\W*([abcd])(?:[.,:)\s].*)?\W*', re.DOTALL)


def letter(answer: str) -> str | None:
  """The letter A to D that an answer gives; None where it gives none."""
  answer = answer.lower().strip()
  found = _SAYS.search(answer) or _SET_OFF.search(answer)
  if not found and (begins := _BEGINS.fullmatch(answer)) and not _is_article(answer):
    found = begins
  return next(group for group in found.groups() if group).upper() if found else None


def _is_article(answer: str) -> bool:
  """Whether the answer begins with the article "a" and a noun."""
  return re.match(r'\W*a\s', answer) is not None
