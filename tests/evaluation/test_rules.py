"""Multiple choice, and the instructions of IFEval."""

import pytest

from echox_jax.evaluation import choice, instructions, rules
from echox_jax.evaluation.questions import CHOICE, INSTRUCTIONS, Question

LETTERS = [
  ('The answer is B.', 'B'),
  ('the correct answer is c', 'C'),
  ('The answer is: **D) Lake Erie**', 'D'),
  ('Answer: A', 'A'),
  ('The answer to the multiple choice question is: D. Lake Erie. A mola mola is a fish.', 'D'),
  ("I would choose option B, since it's cold.", 'B'),
  ("I'd say C.", 'C'),
  ('It is (b).', 'B'),
  ('B. Lake Erie', 'B'),
  ('b', 'B'),
  ('B', 'B'),
  ('C) because of A', 'C'),
  ('"A"', 'A'),
  ('Option D is correct.', 'D'),
  ('D is the best answer.', 'D'),
  ('**C.** the sun', 'C'),
  ('答案是B', 'B'),
  ('A dog is an animal.', None),
  ('It is a dog.', None),
  ('I do not know.', None),
  ('Lake Erie', None),
  ('', None),
]


@pytest.mark.parametrize('answer,letter', LETTERS)
def test_the_letter_of_an_answer(answer, letter):
  assert choice.letter(answer) == letter


def test_an_answer_without_a_letter_is_wrong():
  question = Question('a', 'Which?', ('B',))
  assert rules.marks(CHOICE, question, 'The answer is B.') == {'choice': (1, 1)}
  assert rules.marks(CHOICE, question, 'Lake Erie') == {'choice': (0, 1)}


FOLLOWED = [
  # name, arguments, an answer that follows it, one that does not
  ('keywords:existence', {'keywords': ['sun', 'C++']}, 'c++ in the SUN', 'the sun'),
  (
    'keywords:frequency',
    {'keyword': 'sun', 'frequency': 2, 'relation': 'at least'},
    'sun, Sunday',
    'sun',
  ),
  (
    'keywords:frequency',
    {'keyword': 'sun', 'frequency': 2, 'relation': 'less than'},
    'sun',
    'sun, sun',
  ),
  ('keywords:forbidden_words', {'forbidden_words': ['sun']}, 'Sunday', 'the Sun!'),
  (
    'keywords:letter_frequency',
    {'letter': 'l', 'let_frequency': 3, 'let_relation': 'at least'},
    'Lull',
    'lu',
  ),
  (
    'length_constraints:number_words',
    {'num_words': 3, 'relation': 'at least'},
    'one two three',
    'one two',
  ),
  ('length_constraints:number_paragraphs', {'num_paragraphs': 2}, 'a\n***\nb', 'a\n\nb'),
  (
    'length_constraints:number_paragraphs',
    {'num_paragraphs': 2},
    '***\na\n***\nb\n***',
    'a*** ***b',
  ),
  ('length_constraints:number_paragraphs', {'num_paragraphs': 1}, 'a', 'a\n***\nb'),
  (
    'length_constraints:nth_paragraph_first_word',
    {'num_paragraphs': 2, 'nth_paragraph': 2, 'first_word': 'weekend'},
    'Hello.\n\n"Weekend," he said.',
    'Hello.\n\nThe weekend.',
  ),
  ('detectable_content:number_placeholders', {'num_placeholders': 2}, '[a] [b]', '[a]'),
  ('detectable_content:postscript', {'postscript_marker': 'P.S.'}, 'Bye.\np. s. hi', 'Bye.'),
  ('detectable_content:postscript', {'postscript_marker': 'P.P.S'}, 'P.P.S hi', 'P.S. hi'),
  ('detectable_format:number_bullet_lists', {'num_bullets': 2}, '* a\n- b', '* a\n** b'),
  ('detectable_format:constrained_response', {}, 'My answer is no.', 'No.'),
  (
    'detectable_format:number_highlighted_sections',
    {'num_highlights': 2},
    '*a* and **b**',
    '*a* and **',
  ),
  (
    'detectable_format:multiple_sections',
    {'section_spliter': 'Section', 'num_sections': 2},
    'Section 1\na\nSection 2\nb',
    'Section 1\na',
  ),
  ('detectable_format:json_format', {}, '```json\n{"a": 1}\n```', 'a: 1'),
  ('detectable_format:title', {}, '<<joy>>\nx', '<joy>'),
  ('combination:two_responses', {}, 'a ****** b', 'a ****** a'),
  ('combination:repeat_prompt', {'prompt_to_repeat': 'Say hi'}, 'say hi\nhi', 'hi'),
  ('startend:end_checker', {'end_phrase': 'Any questions?'}, '"So. any questions?"', 'So.'),
  ('startend:quotation', {}, '"hi"', '"hi'),
  (
    'change_case:capital_word_frequency',
    {'capital_frequency': 2, 'capital_relation': 'at least'},
    'I am HAPPY',
    'I am happy',
  ),
  ('change_case:english_capital', {}, 'HI 2', 'Hi'),
  ('change_case:english_lowercase', {}, 'hi 2', 'Hi'),
  ('punctuation:no_comma', {}, 'a b', 'a, b'),
]


@pytest.mark.parametrize('name,arguments,good,bad', FOLLOWED)
def test_instructions(name, arguments, good, bad):
  assert instructions.follows(name, arguments, good, loosely=False)
  assert not instructions.follows(name, arguments, bad, loosely=False)
  assert not instructions.follows(name, arguments, ' ', loosely=True)


def test_every_instruction_has_a_case():
  assert {name for name, *_ in FOLLOWED} == set(instructions.CHECKS)


def test_loosely_a_first_line_or_asterisks_do_not_count():
  answer = 'Sure, here it is:\n**no comma**'
  assert not instructions.follows('punctuation:no_comma', {}, answer, loosely=False)
  assert instructions.follows('punctuation:no_comma', {}, answer, loosely=True)


def test_instructions_that_no_rule_decides_are_left_out_and_named():
  question = Question(
    'a',
    'Write.',
    instructions=(
      ('language:response_language', {'language': 'de'}),
      ('punctuation:no_comma', {}),
      ('startend:quotation', {}),
    ),
  )
  assert rules.unscored(question) == ['language:response_language']
  found = rules.marks(INSTRUCTIONS, question, 'no comma')
  assert found['strict'] == (0, 1) and found['strict_instructions'] == (1, 2)
  assert rules.is_right(INSTRUCTIONS, found) is False
  nothing = Question('b', instructions=(('language:response_language', {}),))
  found = rules.marks(INSTRUCTIONS, nothing, 'x')
  assert set(found.values()) == {(0, 0)} and rules.is_right(INSTRUCTIONS, found) is None
