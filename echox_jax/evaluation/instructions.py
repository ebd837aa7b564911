"""Whether an answer follows the verifiable instructions of IFEval (arXiv 2311.07911), by their
official names and arguments.

An answer follows an instruction strictly as it stands; loosely if it follows it without its first
line, its last line or its asterisks. Nothing but spaces follows no instruction.

Left out, since rules do not suffice for them: `language:response_language`, which takes a detector
of languages, and `length_constraints:number_sentences`, which takes a trained sentence splitter.
`change_case:english_capital` and `english_lowercase` check the case, not that it is English;
`change_case:capital_word_frequency` counts words between spaces and punctuation.
"""

from collections.abc import Callable, Iterator, Mapping
import json
import re
from typing import Any

_OPTIONS = ('My answer is yes.', 'My answer is no.', 'My answer is maybe.')
_LESS = 'less than'  # the other relation is `at least`
_CAPITAL_WORD = re.compile(r"[\w'-]+")


def follows(name: str, arguments: Mapping[str, Any], answer: str, *, loosely: bool) -> bool:
  """Whether an answer follows one of `CHECKS`."""
  check = CHECKS[name]
  known = {key: value for key, value in arguments.items() if value is not None}
  tried = _loosened(answer) if loosely else (answer,)
  return any(one.strip() and check(one, **known) for one in tried)


def _loosened(answer: str) -> Iterator[str]:
  lines = answer.split('\n')
  for part in (lines, lines[1:], lines[:-1], lines[1:-1]):
    text = '\n'.join(part)
    yield text
    yield text.replace('*', '')


def _compares(count: int, limit: int, relation: str) -> bool:
  return count < limit if relation == _LESS else count >= limit


def _keywords(answer: str, keywords: list[str]) -> bool:
  return all(re.search(re.escape(word), answer, re.IGNORECASE) for word in keywords)


def _keyword_frequency(answer: str, keyword: str, frequency: int, relation: str) -> bool:
  found = re.findall(re.escape(keyword.strip()), answer, re.IGNORECASE)
  return _compares(len(found), frequency, relation)


def _forbidden_words(answer: str, forbidden_words: list[str]) -> bool:
  return not any(
    re.search(rf'\b{re.escape(word)}\b', answer, re.IGNORECASE) for word in forbidden_words
  )


def _letter_frequency(answer: str, letter: str, let_frequency: int, let_relation: str) -> bool:
  return _compares(answer.lower().count(letter.strip().lower()), let_frequency, let_relation)


def _number_words(answer: str, num_words: int, relation: str) -> bool:
  return _compares(len(re.findall(r'\w+', answer)), num_words, relation)


def _number_paragraphs(answer: str, num_paragraphs: int) -> bool:
  """Paragraphs stand between `***`; only the first and the last may be empty."""
  first, *middle, last = [part.strip() for part in re.split(r'\s?\*\*\*\s?', answer)] + [''] * (
    '***' not in answer
  )
  return all(middle) and len(middle) + bool(first) + bool(last) == num_paragraphs


def _first_word(answer: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
  """Paragraphs stand between blank lines; a word ends at punctuation."""
  paragraphs = answer.split('\n\n')
  count = sum(bool(paragraph.strip()) for paragraph in paragraphs)
  if count != num_paragraphs or nth_paragraph > count:
    return False
  words = paragraphs[nth_paragraph - 1].split()
  begin = words[0].lstrip("'").lstrip('"').lower() if words else ''
  return re.split(r'[.,?!\'"]', begin)[0] == first_word.lower()


def _number_placeholders(answer: str, num_placeholders: int) -> bool:
  return len(re.findall(r'\[.*?\]', answer)) >= num_placeholders


def _postscript(answer: str, postscript_marker: str) -> bool:
  patterns = {'P.P.S': r'p\.\s?p\.\s?s', 'P.S.': r'p\.\s?s\.'}
  marker = patterns.get(postscript_marker, re.escape(postscript_marker.lower()))
  return re.search(marker, answer.lower()) is not None


def _number_bullet_lists(answer: str, num_bullets: int) -> bool:
  stars = re.findall(r'^\s*\*[^*].*$', answer, re.MULTILINE)
  return len(stars) + len(re.findall(r'^\s*-.*$', answer, re.MULTILINE)) == num_bullets


def _constrained_response(answer: str) -> bool:
  return any(option in answer for option in _OPTIONS)


def _highlighted_sections(answer: str, num_highlights: int) -> bool:
  found = re.findall(r'\*[^\n*]*\*', answer) + re.findall(r'\*\*[^\n*]*\*\*', answer)
  return sum(bool(part.strip('*').strip()) for part in found) >= num_highlights


def _multiple_sections(answer: str, section_spliter: str, num_sections: int) -> bool:
  marks = re.findall(rf'{re.escape(section_spliter.strip())}\s?\d+', answer)
  return len(marks) >= num_sections


def _json_format(answer: str) -> bool:
  text = re.sub(r'^```(?:json|Json|JSON)?', '', answer.strip()).removesuffix('```').strip()
  try:
    json.loads(text)
  except ValueError:
    return False
  return True


def _title(answer: str) -> bool:
  return any(title.strip('<>').strip() for title in re.findall(r'<<[^\n]+>>', answer))


def _two_responses(answer: str) -> bool:
  """Two different answers with `******` between them, which may stand at the ends too."""
  parts = [part.strip() for part in answer.split('******')]
  given = [part for part in parts if part]
  return all(parts[1:-1]) and len(given) == 2 and given[0] != given[1]


def _repeat_prompt(answer: str, prompt_to_repeat: str) -> bool:
  return answer.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _end_checker(answer: str, end_phrase: str) -> bool:
  return answer.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _capital_words(answer: str, capital_frequency: int, capital_relation: str) -> bool:
  count = sum(word.isupper() for word in _CAPITAL_WORD.findall(answer))
  return _compares(count, capital_frequency, capital_relation)


def _no_comma(answer: str) -> bool:
  return ',' not in answer


def _quotation(answer: str) -> bool:
  text = answer.strip()
  return len(text) > 1 and text[0] == text[-1] == '"'


CHECKS: dict[str, Callable[..., bool]] = {
  'keywords:existence': _keywords,
  'keywords:frequency': _keyword_frequency,
  'keywords:forbidden_words': _forbidden_words,
  'keywords:letter_frequency': _letter_frequency,
  'length_constraints:number_words': _number_words,
  'length_constraints:number_paragraphs': _number_paragraphs,
  'length_constraints:nth_paragraph_first_word': _first_word,
  'detectable_content:number_placeholders': _number_placeholders,
  'detectable_content:postscript': _postscript,
  'detectable_format:number_bullet_lists': _number_bullet_lists,
  'detectable_format:constrained_response': _constrained_response,
  'detectable_format:number_highlighted_sections': _highlighted_sections,
  'detectable_format:multiple_sections': _multiple_sections,
  'detectable_format:json_format': _json_format,
  'detectable_format:title': _title,
  'combination:two_responses': _two_responses,
  'combination:repeat_prompt': _repeat_prompt,
  'startend:end_checker': _end_checker,
  'startend:quotation': _quotation,
  'change_case:capital_word_frequency': _capital_words,
  'change_case:english_capital': str.isupper,
  'change_case:english_lowercase': str.islower,
  'punctuation:no_comma': _no_comma,
}
