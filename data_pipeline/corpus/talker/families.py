"""Families of everyday questions: each has lists of words, and phrasings with places for them.

A family is a line `name < LIST`, and below it its phrasings. In these `{x}` is a word of the list,
`{ax}` the word with its article, `{xs}` its plural. `name < LIST, OTHER` has every word of the
first list with every word of the second, which is `{y}`, `{ay}`, `{ys}`. `name < LIST, next 3` has
every word with each of the three that follow it in the list. All phrasings with the same words mean
the same.
"""

from collections.abc import Iterator
import dataclasses

from data_pipeline.corpus import facts_tables
from data_pipeline.corpus.talker import everyday_words

_ANIMALS = """
animal food < ANIMALS
What does {ax} eat? | What do {xs} like to eat? | Tell me what {xs} eat. | What can I feed {ax}?

animal home < ANIMALS
Where do {xs} live? | Where can I see {ax}? | What is the home of {ax}?
In which parts of the world do {xs} live?

animal age < ANIMALS
How long does {ax} live? | How old can {ax} get? | What is the life span of {ax}?

animal fact < ANIMALS
Tell me something about {xs}. | What is special about {xs}?
Do you know an interesting fact about {xs}? | What should everybody know about {xs}?

animal young < ANIMALS
How does {ax} raise its young? | How many babies does {ax} have?
How do {xs} take care of their babies?

animal danger < ANIMALS
Are {xs} dangerous? | Can {ax} hurt me? | What should I do when I meet {ax}?

animal size < ANIMALS
How big is {ax}? | How heavy can {ax} be?

animal sleep < ANIMALS
When do {xs} sleep? | How much does {ax} sleep?

animal looks < ANIMALS
What does {ax} look like? | Describe {ax}.

animal joke < ANIMALS
Tell me a joke about {ax}. | Do you know a joke about {xs}?

animal difference < ANIMALS, next 3
What is the difference between {ax} and {ay}?

animal bigger < ANIMALS, next 3
Which is bigger, {ax} or {ay}? | Is {ax} faster than {ay}?
"""
_FOOD = """
produce storing < PRODUCE
How do I store {xs}? | How long do {xs} stay fresh? | Where should I keep {xs}?

produce health < PRODUCE
Are {xs} healthy? | What is good about eating {xs}?

produce season < PRODUCE
When are {xs} in season? | When are {xs} ripe?

produce growing < PRODUCE
Where do {xs} grow? | Can I grow {xs} at home? | How do {xs} grow?

produce cooking < PRODUCE
What can I cook with {xs}? | I have too many {xs}. What can I do with them?
What goes well with {xs}?

produce taste < PRODUCE
What does {ax} taste like? | How can I tell that {ax} is ripe?

dish making < DISHES
How do I make {x}? | What is the best way to make {x}? | Can you tell me how to make {x}?
I would like to make {x}. Where do I start?

dish parts < DISHES
What do I need for {x}? | What is in {x}? | Which ingredients do I need to make {x}?

dish time < DISHES
How long does it take to make {x}?

dish beside < DISHES
What goes well with {x}? | What can I serve with {x}? | What should I drink with {x}?

dish origin < DISHES
Where do people eat {x}? | When do people eat {x}?

dish health < DISHES
Can I eat {x} every day? | How can I make {x} healthier?

drink making < DRINKS
How do I make {x}? | What is the secret of good {x}?

drink health < DRINKS
Is {x} good for me? | How much {x} can I drink a day?

drink time < DRINKS
When do people drink {x}? | What goes well with {x}?
"""
_THINGS = """
thing use < THINGS
What is {ax} used for? | What do people do with {ax}? | What do I need {ax} for?
How do I use {ax}?

thing material < THINGS
What is {ax} made of? | How is {ax} made? | What are {xs} usually made of?

thing care < THINGS
How do I clean {ax}? | How do I take care of {ax}?

thing buying < THINGS
What should I look for when I buy {ax}? | Where can I buy {ax}? | How much does {ax} cost?

thing looks < THINGS
Describe {ax} to me. | What does {ax} look like?

thing instead < THINGS
What can I use instead of {ax}? | I do not have {ax}. What else can I take?

thing past < THINGS
What did people use before there were {xs}?

thing difference < THINGS, next 1
What is the difference between {ax} and {ay}? | Which is more useful, {ax} or {ay}?

material making < MATERIALS
How is {x} made? | Where does {x} come from?

material use < MATERIALS
What is {x} used for? | What can be made out of {x}?

vehicle riding < VEHICLES
How does {ax} work? | How fast can {ax} go? | Who drives {ax}? | How many people fit into {ax}?

vehicle difference < VEHICLES, next 3
What is the difference between {ax} and {ay}? | Which is faster, {ax} or {ay}?

plant water < PLANTS
How often should I water {ax}? | How much water does {ax} need?

plant light < PLANTS
How much sun does {ax} need? | Where should I plant {ax}?

plant care < PLANTS
How do I take care of {ax}? | My {x} looks sick. What can I do? | Why does my {x} not grow?

plant looks < PLANTS
What does {ax} look like? | How tall does {ax} grow?

element use < ELEMENTS
What is {x} used for? | Where do we find {x}? | What is {x}?
"""
_WORLD = """
country language < COUNTRIES
What language do people speak in {x}? | Which language should I learn for a trip to {x}?

country fame < COUNTRIES
What is {x} famous for? | Tell me something about {x}. | What is special about {x}?
What do you know about {x}?

country weather < COUNTRIES
What is the weather like in {x}? | When is the best time to visit {x}?
How warm does it get in {x}?

country food < COUNTRIES
What do people eat in {x}? | Which food should I try in {x}? | What is a typical dish from {x}?

country sights < COUNTRIES
What should I see in {x}? | Where should I go in {x}? | I am going to {x}. What should I visit?

country place < COUNTRIES
Where is {x}? | Which countries are next to {x}?

country money < COUNTRIES
How do people pay in {x}? | What is the money of {x}?

country size < COUNTRIES
How many people live in {x}? | How big is {x}?

country past < COUNTRIES
Tell me about the history of {x}. | How old is {x}?

country packing < COUNTRIES
What should I pack for a trip to {x}? | Is it safe in {x}?

city sights < CITIES
What can I see in {x}? | I have one day in {x}. What should I do? | What should I visit in {x}?

city country < CITIES
Which country is {x} in? | Where is {x}?

city fame < CITIES
Tell me about {x}. | What is {x} known for?

city way < CITIES
How do I get around in {x}? | How do I travel to {x}?

state fame < STATES
What is {x} famous for? | Tell me something about {x}.

state place < STATES
Where is {x}? | Which states are next to {x}?

state sights < STATES
What should I see in {x}? | What can I do on a weekend in {x}?

state city < STATES
What is the biggest city in {x}?

phenomenon cause < PHENOMENA
What causes {x}? | How do you explain {x} to a child? | What do you know about {x}?

topic < TOPICS
Tell me something about {x}. | What do you know about {x}? | Why are people interested in {x}?
Can you give me a short introduction to {x}? | What is the most interesting fact about {x}?
Say one sentence about {x}.
"""
_PEOPLE = """
job work < JOBS
What does {ax} do? | What is the work of {ax}? | Tell me what {ax} does all day.
What do {xs} do?

job way < JOBS
How do I become {ax}? | What do I have to learn to be {ax}?
My daughter wants to be {ax}. What should she study? | How long does it take to become {ax}?

job tools < JOBS
What tools does {ax} need? | What does {ax} wear at work? | Where does {ax} work?

job skills < JOBS
What makes a good {x}? | What does {ax} have to be good at? | Is it hard to be {ax}?

job reason < JOBS
Why do we need {xs}? | When should I call {ax}?

job pay < JOBS
How much money does {ax} make?

person who < PERSONS
Who was {x}? | Tell me about {x}. | What do you know about {x}?

person fame < PERSONS
What is {x} known for? | Why is {x} famous? | What did {x} do?

person time < PERSONS
When did {x} live? | Where did {x} live?

person lesson < PERSONS
What can we learn from {x}?

book < BOOKS
What is {x} about? | Tell me the story of {x}. | Who wrote {x}?

book hero < BOOKS
Who is the hero of {x}? | How does {x} end?

invention who < INVENTIONS
Who invented the {x}? | When was the {x} invented? | Who came up with the idea of the {x}?

invention way < INVENTIONS
How does the {x} work? | How would you explain the {x} to a child? | Why was the {x} important?
What did people do before the {x}?

gift < PEOPLE, OCCASIONS
I need {ay} present for my {x}. What do you suggest? | What is a good {y} present for my {x}?

greeting < PEOPLE, OCCASIONS
What can I write on {ay} card for my {x}? | Write a short {y} greeting for my {x}.

quarrel < PEOPLE
I had a fight with my {x}. What should I do? | How can I make my {x} happy?
What can I do together with my {x}? | How do I say sorry to my {x}?
What should I talk about with my {x}?

feeling own < FEELINGS
I feel {x} today. What should I do? | Why do I feel {x}? | What helps when somebody is {x}?
What do people do when they are {x}?

feeling other < FEELINGS, OTHERS
My {y} is {x}. How can I help? | What should I say to my {y} who is {x}?

ailment < AILMENTS
What helps against {x}? | I have {x}. What should I do? | What causes {x}?
When should I see a doctor about {x}? | How long does {x} last?

body < BODY
What does the {x} do? | Why is the {x} important? | Where is the {x}? | How does the {x} work?

body care < BODY
How do I keep my {x} healthy? | My {x} hurts. What can I do?
"""
_DOINGS = """
hobby start < HOBBIES
How do I get started with {x}? | I want to try {x}. What should I know? | Give me a tip for {x}.
How can I get better at {x}?

hobby needs < HOBBIES
What do I need for {x}? | How much does {x} cost?

hobby reason < HOBBIES
Why do people like {x}? | Is {x} a good hobby? | What is fun about {x}?

hobby health < HOBBIES
Is {x} good for my health? | Can children learn {x}?

hobby age < HOBBIES
Am I too old for {x}? | How much time does {x} take?

task way < TASKS
How do I {x}? | What is the best way to {x}? | Can you tell me how to {x}?
I have to {x}. How do I do that? | Is there an easy way to {x}?

task tip < TASKS
Give me one tip to {x}. | What do I need to {x}? | Is it hard to {x}?
How long does it take to {x}?

task mistake < TASKS
What should I not do when I {x}?

sport < SPORTS
What are the rules of {x}? | How does {x} work? | Explain {x} to me.

sport needs < SPORTS
What do I need for {x}? | Where can I learn {x}?

sport reason < SPORTS
Is {x} dangerous? | Why do people love {x}? | Is {x} hard?

sport difference < SPORTS, next 2
Which is harder, {x} or {y}?

instrument sound < INSTRUMENTS
What does {ax} sound like? | How does {ax} make its sound? | How do I play the {x}?

instrument learning < INSTRUMENTS
Is the {x} hard to learn? | How long does it take to learn the {x}?
At what age can a child learn the {x}?

instrument difference < INSTRUMENTS, next 3
What is the difference between {ax} and {ay}?

subject < SUBJECTS
Why should I learn {x}? | How can I get better at {x}? | What is {x} about?
What is the hardest part of {x}? | How do I study for a test in {x}?

recommendation < GENRES, MEDIA
Can you recommend {ax} {y}? | I am looking for {ax} {y}. What do you suggest?
What makes a good {x} {y}?

weather plan < PLACES, WEATHERS
What can I do in {x} on a {y} day? | What should I wear in {x} when it is {y}?

word meaning < WORDS
What does the word {x} mean? | What is the meaning of {x}? | How would you explain the word {x}?

word use < WORDS
Use the word {x} in a sentence. | Make a sentence with the word {x}.

word like < WORDS
What is another word for {x}?
"""
_BY_CATEGORY = {
  'animals': _ANIMALS,
  'food': _FOOD,
  'things': _THINGS,
  'world': _WORLD,
  'people': _PEOPLE,
  'doings': _DOINGS,
}
_OF_FACTS = {
  'COUNTRIES': (facts_tables.CAPITALS, 0),
  'CITIES': (facts_tables.CAPITALS, 1),
  'STATES': (facts_tables.STATE_CAPITALS, 0),
  'ELEMENTS': (facts_tables.ELEMENTS, 1),
}


@dataclasses.dataclass(frozen=True)
class Family:
  """Questions that differ in their words.

  Attributes:
    name: unique.
    category: a label for scores by kind.
    pairs: the cells of x and y; an empty y = none.
    phrasings: see above.
  """

  name: str
  category: str
  pairs: tuple[tuple[str, str], ...]
  phrasings: tuple[str, ...]


def all_families() -> Iterator[Family]:
  """Every family, in fixed order."""
  for category, table in _BY_CATEGORY.items():
    for block in table.strip().split('\n\n'):
      header, *lines = block.splitlines()
      name, lists = header.split(' < ')
      yield Family(
        name, category, tuple(_pairs(*lists.split(', '))), tuple(_cells('\n'.join(lines)))
      )


def _pairs(first: str, second: str = '') -> Iterator[tuple[str, str]]:
  words = _list(first)
  if second.startswith('next '):
    count = int(second.removeprefix('next '))
    return ((x, y) for i, x in enumerate(words) for y in words[i + 1 : i + 1 + count])
  return ((x, y) for x in words for y in (_list(second) if second else ('',)))


def _list(name: str) -> list[str]:
  if name in _OF_FACTS:
    table, column = _OF_FACTS[name]
    return [line.split('|')[column].strip() for line in table.strip().splitlines()]
  return _cells(getattr(everyday_words, name))


def _cells(table: str) -> list[str]:
  """The cells of a table, which are separated by `|` or by lines."""
  return [word.strip() for line in table.strip().splitlines() for word in line.split('|')]
