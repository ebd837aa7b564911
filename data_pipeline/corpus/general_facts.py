"""Facts with phrasings of their own: name, questions, answer, references."""

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
