"""Small copies of the packages that the talker's texts come from, and a text model that answers at
once.
"""

from data_pipeline.corpus.talker import answers, sources
from echox_jax import storage

TRIVIA = """
Which sea has no coast?:
- Sargasso Sea
- Sargasso
What car is this? http://i.example.com/1.jpg:
- one that no voice can describe
Complete the line "To be or ____"?:
- not to be
What is the capital of France?:
- Paris
In what year did the war end?:
- 1945
"""
DIALOGUES = """
categories:
- all
conversations:
- - What is the hardest stone of all?
  - A diamond.
- - you are a fool
  - I am sorry.
- - Tell me what you think
  - Not much.
"""
WORDNET = (
  '00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | that which is; "it was full of rackets, '
  'balls and other objects"; "two objects"',
  '00002137 03 n 01 thing 0 001 @ 00001740 n 0000 | a thing; "how big is that part compared to the '
  'whole?"; "the team is a unit"; "he bought 10,000 of them"; "the team is a unit"',
)
MET = 'tower%1:06:00:: 1 5\n'  # the senses that WordNet's authors counted
DEFINED = (
  '08950230 15 n 01 Arnhem 0 002 @i 08524735 n 0000 #p 08949093 n 0000 | a city in the central '
  'Netherlands; site of a battle',
  '10957072 18 n 02 Eliot 1 Thomas_Stearns_Eliot 0 001 @i 10444194 n 0000 | British poet (born in '
  'the United States) who won a prize',
  '04460130 06 n 01 tower 0 001 @ 04341686 n 0000 | a structure taller than its diameter',
  '04460131 06 n 01 tower 1 001 @ 04341686 n 0000 | a sense that nobody met',
  '00000001 15 n 01 Nil 0 001 @i 08524735 n 0000 | ',
)


def write(folder, monkeypatch, sentences=WORDNET):
  """Makes the packages look installed, with these contents."""
  for source, names, content in (
    (sources.TRIVIA, (f'{name}.yaml' for name in sources.TRIVIA_LISTS), TRIVIA),
    (sources.DIALOGUES, (f'{name}.yml' for name in sources.DIALOGUE_LISTS), DIALOGUES),
  ):
    inside = folder / source.module / source.inside
    inside.mkdir(parents=True)
    for name in names:
      (inside / name).write_text(content)
  (folder / 'wordnet').mkdir()
  for part in ('noun', 'verb', 'adj', 'adv'):
    lines = sentences if part == 'noun' else ()
    (folder / 'wordnet' / f'data.{part}').write_text('  1 A licence.\n' + '\n'.join(lines))
  (folder / 'wordnet' / 'cntlist.rev').write_text(MET)
  monkeypatch.setenv('WNSEARCHDIR', str(folder / 'wordnet'))
  written, real = (sources.TRIVIA.module, sources.DIALOGUES.module), storage.package_folder

  def package_folder(module):
    return folder / module if module in written else real(module)

  monkeypatch.setattr(storage, 'package_folder', package_folder)


def answer_at_once(monkeypatch, stop_before=None):
  """A model that repeats the question; it is stopped before the shard number `stop_before`."""
  asked = []

  def answer(engine, questions):
    if len(asked) == stop_before:
      raise KeyboardInterrupt
    asked.append(len(questions))
    return [f'You asked, {text[:-1].lower()}. That was all.\n\nMore' for text in questions]

  monkeypatch.setattr(answers, '_engine', lambda folder: None)
  monkeypatch.setattr(answers, '_answer', answer)
  return asked
