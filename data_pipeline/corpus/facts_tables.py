"""Word tables of the facts: one row a line, cells parted by `|`."""

DAYS = ('Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday', 'Sunday')
MONTHS = (
  'January',
  'February',
  'March',
  'April',
  'May',
  'June',
  'July',
  'August',
  'September',
  'October',
  'November',
  'December',
)

# country | capital | where it lies
CAPITALS = """
France | Paris | Europe
Germany | Berlin | Europe
Italy | Rome | Europe
Japan | Tokyo | Asia
Spain | Madrid | Europe
Portugal | Lisbon | Europe
England | London | Europe
Ireland | Dublin | Europe
Scotland | Edinburgh | Europe
China | Beijing | Asia
Norway | Oslo | Europe
Sweden | Stockholm | Europe
Egypt | Cairo | Africa
Denmark | Copenhagen | Europe
Kenya | Nairobi | Africa
Finland | Helsinki | Europe
Poland | Warsaw | Europe
Canada | Ottawa | North America
Austria | Vienna | Europe
Cuba | Havana | the Caribbean
Hungary | Budapest | Europe
Greece | Athens | Europe
Peru | Lima | South America
Turkey | Ankara | Asia
Thailand | Bangkok | Asia
Russia | Moscow | Europe
Belgium | Brussels | Europe
the Netherlands | Amsterdam | Europe
Iran | Tehran | Asia
Slovakia | Bratislava | Europe
Croatia | Zagreb | Europe
Nigeria | Abuja | Africa
Serbia | Belgrade | Europe
Australia | Canberra | Oceania
Bulgaria | Sofia | Europe
Romania | Bucharest | Europe
Vietnam | Hanoi | Asia
Chile | Santiago | South America
Latvia | Riga | Europe
Lithuania | Vilnius | Europe
Morocco | Rabat | Africa
Estonia | Tallinn | Europe
Indonesia | Jakarta | Asia
Cyprus | Nicosia | Europe
North Korea | Pyongyang | Asia
Mexico | Mexico City | North America
India | New Delhi | Asia
Pakistan | Islamabad | Asia
Nepal | Kathmandu | Asia
Malaysia | Kuala Lumpur | Asia
the Philippines | Manila | Asia
Iraq | Baghdad | Asia
Syria | Damascus | Asia
Taiwan | Taipei | Asia
Lebanon | Beirut | Asia
Saudi Arabia | Riyadh | Asia
Qatar | Doha | Asia
Kuwait | Kuwait City | Asia
Uganda | Kampala | Africa
Afghanistan | Kabul | Asia
Jamaica | Kingston | the Caribbean
Oman | Muscat | Asia
Tunisia | Tunis | Africa
New Zealand | Wellington | Oceania
Algeria | Algiers | Africa
Ethiopia | Addis Ababa | Africa
Senegal | Dakar | Africa
Angola | Luanda | Africa
Venezuela | Caracas | South America
Uruguay | Montevideo | South America
Panama | Panama City | Central America
Costa Rica | San Jose | Central America
El Salvador | San Salvador | Central America
Guatemala | Guatemala City | Central America
"""

# state | capital
STATE_CAPITALS = """
California | Sacramento
Texas | Austin
Florida | Tallahassee
Arizona | Phoenix
Colorado | Denver
Massachusetts | Boston
Hawaii | Honolulu
Ohio | Columbus
Indiana | Indianapolis
Tennessee | Nashville
Arkansas | Little Rock
Utah | Salt Lake City
Wisconsin | Madison
Nebraska | Lincoln
Virginia | Richmond
New York | Albany
Oregon | Salem
Nevada | Carson City
Oklahoma | Oklahoma City
Kansas | Topeka
Missouri | Jefferson City
Iowa | Des Moines
Louisiana | Baton Rouge
Mississippi | Jackson
Alabama | Montgomery
Illinois | Springfield
Idaho | Boise
Wyoming | Cheyenne
Vermont | Montpelier
Delaware | Dover
Rhode Island | Providence
Connecticut | Hartford
New Mexico | Santa Fe
Michigan | Lansing
Pennsylvania | Harrisburg
New Jersey | Trenton
Maryland | Annapolis
Maine | Augusta
South Carolina | Columbia
North Carolina | Raleigh
West Virginia | Charleston
"""

# word | opposite
OPPOSITES = """
big | small
tall | short
fast | slow
happy | sad
young | old
up | down
left | right
open | closed
empty | full
wet | dry
light | dark
early | late
hard | soft
loud | quiet
clean | dirty
good | bad
true | false
north | south
east | west
first | last
push | pull
love | hate
black | white
inside | outside
above | below
before | after
always | never
thick | thin
deep | shallow
wide | narrow
rough | smooth
sharp | dull
cheap | expensive
sweet | bitter
summer | winter
friend | enemy
laugh | cry
remember | forget
safe | dangerous
warm | cool
near | far
inner | outer
arrival | departure
victory | defeat
"""

# atomic number | element | what kind of thing, said of some
ELEMENTS = """
1 | hydrogen | gas
2 | helium | gas
3 | lithium | metal
5 | boron |
6 | carbon |
7 | nitrogen | gas
8 | oxygen | gas
9 | fluorine |
10 | neon | gas
11 | sodium | metal
12 | magnesium |
13 | aluminum |
14 | silicon |
15 | phosphorus |
16 | sulfur |
17 | chlorine | gas
18 | argon |
19 | potassium |
20 | calcium | metal
21 | scandium |
22 | titanium | metal
24 | chromium |
25 | manganese |
26 | iron | metal
27 | cobalt |
28 | nickel |
29 | copper | metal
30 | zinc | metal
31 | gallium |
32 | germanium |
33 | arsenic |
34 | selenium |
35 | bromine |
36 | krypton | gas
47 | silver | metal
53 | iodine |
78 | platinum | metal
79 | gold | metal
80 | mercury |
92 | uranium | metal
"""

# animal | its young
BABY_ANIMALS = """
dog | puppy
cat | kitten
cow | calf
horse | foal
sheep | lamb
goat | kid
pig | piglet
duck | duckling
lion | cub
tiger | cub
bear | cub
fox | cub
elephant | calf
whale | calf
kangaroo | joey
frog | tadpole
deer | fawn
"""

# what a listener may as well write
OTHER_SPELLINGS = {
  'San Jose': ('San José',),
  'aluminum': ('aluminium',),
  'sulfur': ('sulphur',),
  'fawn': ('faun',),
}

# name, questions, answer, references
GENERAL = (
  (
    'sky',
    (
      'What color is the sky on a clear day?',
      'Which color does the clear sky have?',
      'Tell me the color of the clear sky.',
    ),
    'The clear sky is blue.',
    ('blue',),
  ),
  (
    'grass',
    (
      'What color is fresh grass?',
      'Which color does fresh grass have?',
      'Tell me the color of fresh grass.',
    ),
    'Fresh grass is green.',
    ('green',),
  ),
  (
    'snow',
    ('What color is fresh snow?', 'Which color does snow have?', 'Tell me the color of snow.'),
    'The color of snow is white.',
    ('white',),
  ),
  (
    'banana',
    (
      'What color is a ripe banana?',
      'Which color does a ripe banana have?',
      'Tell me the color of a ripe banana.',
    ),
    'A ripe banana is yellow.',
    ('yellow',),
  ),
  (
    'coal',
    ('What color is coal?', 'Which color does a piece of coal have?', 'Tell me the color of coal.'),
    'The color of coal is black.',
    ('black',),
  ),
  (
    'spider',
    (
      'How many legs does a spider have?',
      'On how many legs does a spider walk?',
      'Tell me how many legs a spider has.',
    ),
    'A spider has eight legs. It is not an insect.',
    ('eight', '8'),
  ),
  (
    'insect',
    (
      'How many legs does an insect have?',
      'On how many legs does an insect walk?',
      'Tell me how many legs an insect has.',
    ),
    'Every insect has six legs.',
    ('six', '6'),
  ),
  (
    'week',
    (
      'How many days are in a week?',
      'How many days does a week have?',
      'Tell me how many days are in a week.',
    ),
    'There are seven days in a week.',
    ('seven', '7'),
  ),
  (
    'year',
    (
      'How many months are in a year?',
      'How many months does a year have?',
      'Tell me how many months are in a year.',
    ),
    'There are twelve months in a year.',
    ('twelve', '12'),
  ),
  (
    'hour',
    (
      'How many minutes are in an hour?',
      'How many minutes does an hour have?',
      'Tell me how many minutes are in an hour.',
    ),
    'There are sixty minutes in an hour.',
    ('sixty', '60'),
  ),
  (
    'day',
    (
      'How many hours are in a day?',
      'How many hours does a day have?',
      'Tell me how many hours are in a day.',
    ),
    'There are twenty four hours in a day.',
    ('twenty four', 'twenty-four', '24'),
  ),
  (
    'triangle',
    (
      'How many sides does a triangle have?',
      'How many sides are in a triangle?',
      'Tell me how many sides a triangle has.',
    ),
    'A triangle has three sides.',
    ('three', '3'),
  ),
  (
    'pentagon',
    (
      'How many sides does a pentagon have?',
      'How many sides are in a pentagon?',
      'Tell me how many sides a pentagon has.',
    ),
    'A pentagon has five sides.',
    ('five', '5'),
  ),
  (
    'alphabet',
    (
      'How many letters are in the English alphabet?',
      'How many letters does the alphabet have?',
      'Tell me how many letters the alphabet has.',
    ),
    'The alphabet has twenty six letters.',
    ('twenty six', 'twenty-six', '26'),
  ),
  (
    'largest planet',
    (
      'What is the largest planet?',
      'Which planet is the biggest one?',
      'Name the largest planet of our solar system.',
    ),
    'The largest planet is Jupiter. It has many moons.',
    ('Jupiter',),
  ),
  (
    'red planet',
    ('Which planet is called the red planet?', 'What is the red planet?', 'Name the red planet.'),
    'The red planet is Mars.',
    ('Mars',),
  ),
  (
    'ringed planet',
    (
      'Which planet is famous for its rings?',
      'What planet has the brightest rings?',
      'Name the planet with the great rings.',
    ),
    'The planet with great rings is Saturn.',
    ('Saturn',),
  ),
  (
    'largest ocean',
    (
      'What is the largest ocean?',
      'Which ocean is the biggest one?',
      'Name the largest ocean on Earth.',
    ),
    'The largest ocean is the Pacific. It is very deep.',
    ('Pacific',),
  ),
  (
    'highest mountain',
    (
      'What is the highest mountain?',
      'Which mountain is the tallest on Earth?',
      'Name the highest mountain in the world.',
    ),
    'The highest mountain is Mount Everest.',
    ('Everest',),
  ),
  (
    'river of Egypt',
    (
      'Which river flows through Egypt?',
      'What is the great river of Egypt?',
      'Name the river that flows through Egypt.',
    ),
    'The great river of Egypt is the Nile.',
    ('Nile',),
  ),
  (
    'fastest animal',
    (
      'What is the fastest land animal?',
      'Which animal runs the fastest?',
      'Name the fastest animal on land.',
    ),
    'The fastest land animal is the cheetah.',
    ('cheetah',),
  ),
  (
    'tallest animal',
    (
      'What is the tallest animal?',
      'Which animal has the longest neck?',
      'Name the tallest animal.',
    ),
    'The tallest animal is the giraffe. It has long legs.',
    ('giraffe',),
  ),
  (
    'biggest animal',
    (
      'What is the biggest animal of all?',
      'Which animal is the largest on Earth?',
      'Name the biggest animal in the world.',
    ),
    'The biggest animal is the blue whale. It lives in the ocean.',
    ('blue whale',),
  ),
  (
    'bees',
    ('What do bees make?', 'What sweet food do we get from bees?', 'Tell me what bees make.'),
    'Bees make sweet honey.',
    ('honey',),
  ),
  (
    'caterpillar',
    (
      'What does a caterpillar turn into?',
      'What will a caterpillar become?',
      'Tell me what a caterpillar turns into.',
    ),
    'A caterpillar turns into a butterfly.',
    ('butterfly',),
  ),
  (
    'ice',
    (
      'What is frozen water called?',
      'What does water become when it freezes?',
      'Tell me the name for frozen water.',
    ),
    'Frozen water is called ice.',
    ('ice',),
  ),
  (
    'hamlet',
    ('Who wrote Hamlet?', 'Which author wrote the play Hamlet?', 'Name the author of Hamlet.'),
    'Hamlet was written by William Shakespeare.',
    ('Shakespeare',),
  ),
  (
    'mona lisa',
    (
      'Who painted the Mona Lisa?',
      'Which artist painted the Mona Lisa?',
      'Name the painter of the Mona Lisa.',
    ),
    'The Mona Lisa was painted by Leonardo da Vinci.',
    ('Leonardo', 'da Vinci'),
  ),
  (
    'telephone',
    (
      'Who invented the telephone?',
      'Which inventor made the first telephone?',
      'Name the inventor of the telephone.',
    ),
    'The telephone was invented by Alexander Graham Bell.',
    ('Graham Bell', 'Alexander Bell'),
  ),
  (
    'piano',
    (
      'Which instrument has eighty eight keys?',
      'What instrument has black and white keys?',
      'Name the instrument with eighty eight keys.',
    ),
    'The instrument is the piano. It has many strings.',
    ('piano',),
  ),
  (
    'yen',
    (
      'What is the money of Japan called?',
      'Which currency is used in Japan?',
      'Tell me the currency of Japan.',
    ),
    'The currency of Japan is the yen.',
    ('yen',),
  ),
  (
    'brazil',
    (
      'Which language is spoken in Brazil?',
      'What language do people speak in Brazil?',
      'Tell me the language of Brazil.',
    ),
    'People in Brazil speak Portuguese.',
    ('Portuguese',),
  ),
  (
    'bicycle',
    (
      'How many wheels does a bicycle have?',
      'On how many wheels does a bicycle roll?',
      'Tell me how many wheels a bicycle has.',
    ),
    'A bicycle has two wheels. You ride it outside.',
    ('two', '2'),
  ),
  (
    'rainbow',
    (
      'How many colors does a rainbow have?',
      'How many colors are in a rainbow?',
      'Tell me how many colors a rainbow has.',
    ),
    'A rainbow has seven colors. It comes after the rain.',
    ('seven', '7'),
  ),
)
