'use strict';
// The page of an evaluation. `runs` holds one or two runs; their questions are joined by id.
const {runs, compared} = JSON.parse(document.getElementById('data').textContent);
const ways = runs[0].ways;
const PAGE = 50;
let shown = PAGE;

function element(name, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children.filter((child) => child !== null));
  return made;
}

function number(estimate) {
  if (!estimate) return 'none';
  const {value, low, high} = estimate;
  return low === null ? value.toFixed(3) : `${value.toFixed(3)} [${low.toFixed(3)}, ${high.toFixed(3)}]`;
}

function table(heads, rows) {
  const top = heads.map((head) => head ? element('th', {scope: 'col', textContent: head}) : element('td'));
  return element('div', {className: 'wide', tabIndex: 0}, element('table', {},
    element('tr', {}, ...top),
    ...rows.map(([name, ...cells]) => element('tr', {},
      element('th', {scope: 'row', textContent: name}),
      ...cells.map((cell) => element('td', {className: 'n', textContent: cell}))))));
}

function plain(value) {
  if (value === null || value === undefined) return 'none';
  return typeof value === 'object' ? Object.entries(value).map(([k, v]) => `${k} ${v}`).join(', ') || '0' : String(value);
}

function spaced(name) { return name.replaceAll('_', ' '); }

function scoreTables(run) {
  const {scores} = run;
  const rules = [...new Set(ways.flatMap((way) => Object.keys(scores.ways[way] || {})))];
  const parts = [
    runs.length > 1 ? element('h3', {textContent: run.folder}) : null,
    table(['', ...run.ways], rules.map((rule) => [spaced(rule),
      ...run.ways.map((way) => rule in scores.ways[way] ? number(scores.ways[way][rule]) : '')])),
  ];
  if (Object.keys(scores.gaps).length) {
    parts.push(element('h3', {textContent: `Gaps (${spaced(scores.rule)})`}),
      table(['', 'difference'], Object.entries(scores.gaps).map(([name, gap]) => [name, number(gap)])));
  }
  if (Object.keys(scores.agreement).length) {
    parts.push(element('h3', {textContent: 'How alike the answers of two ways are'}),
      table(['', 'ROUGE-L', 'share alike (0.6 or more)'], Object.entries(scores.agreement).map(([name, own]) =>
        [name, number(own.rouge_l), number(own.alike)])));
  }
  for (const [title, groups] of [['category', scores.by_category], ['voice', scores.by_voice], ['length of the answer', scores.by_length]]) {
    if (!Object.keys(groups).length) continue;
    parts.push(element('h3', {textContent: `By ${title}`}),
      table(['', 'questions', ...run.ways], Object.entries(groups).map(([name, group]) => [name, group.questions,
        ...run.ways.map((way) => number(group[way][scores.rule]))])));
  }
  parts.push(element('h3', {textContent: 'Speech, times and counts'}),
    table(['', 'value'], ['speech', 'times', 'counts', 'judge'].flatMap((kind) =>
      Object.entries(scores[kind] || {}).map(([name, value]) => [spaced(name), plain(value)]))));
  return element('div', {}, ...parts);
}

function audioOf(source, label) {
  if (!source) return null;
  const path = source.split('/').map(encodeURIComponent).join('/');
  const player = element('audio', {controls: true, preload: 'none', src: path});
  player.setAttribute('aria-label', label);
  return player;
}

function markOf(right) {
  if (right === null) return element('span', {className: 'grey', textContent: 'not scored'});
  return element('strong', {className: right ? 'right' : 'wrong', textContent: right ? 'right' : 'wrong'});
}

function answersOf(question, way) {
  const said = question.said[way];
  if (!said) return null;
  const words = said.wrong_words && said.wrong_words[0] ? ` (${said.wrong_words[0]} of ${said.wrong_words[1]} words differ from its text)` : '';
  return element('p', {className: 'said'}, `${way} `, markOf(said.right), ` ${said.text || '(nothing)'}${words} `,
    audioOf(said.sound, `${way}, answer to ${question.id}`));
}

function articleOf(question) {
  const details = [question.id, question.category, question.voice].filter(Boolean).join(' · ');
  const sides = question.both.map((own, i) => element('div', {},
    runs.length > 1 ? element('p', {className: 'grey', textContent: runs[i].folder}) : null,
    ...(own ? [own.refused ? element('p', {className: 'wrong', textContent: `Not asked: ${own.refused}`}) : null,
      ...runs[i].ways.map((way) => answersOf(own, way))] : [element('p', {textContent: 'not asked in this run'})])));
  return element('article', {},
    element('p', {}, element('strong', {textContent: question.text || '(only spoken)'}), ' ',
      audioOf(question.sound, `question ${question.id}`)),
    element('p', {className: 'grey', textContent: `${details}; right: ${question.references.join(' | ') || 'by its instructions'}`}),
    element('div', {className: 'runs'}, ...sides));
}

const others = new Map((runs[1] ? runs[1].questions : []).map((question) => [question.id, question]));
const questions = runs[0].questions.map((question) => ({
  ...question, both: runs.length > 1 ? [question, others.get(question.id) || null] : [question]}));
const control = (name) => document.getElementById(name);

function isWanted(question) {
  const way = control('way').value, mark = control('mark').value, words = control('words').value.toLowerCase();
  const right = (run, own = way) => question.both[run]?.said[own]?.right;
  if (mark === 'right' && right(0) !== true) return false;
  if (mark === 'wrong' && right(0) !== false) return false;
  if (mark === 'lost' && !(right(0, `${way[0]}2T`) === true && right(0, `${way[0]}2S`) === false)) return false;
  if (mark === 'differ' && right(0) === right(1)) return false;
  if (control('category').value && question.category !== control('category').value) return false;
  if (control('voice').value && question.voice !== control('voice').value) return false;
  const texts = [question.id, question.text, ...question.both.flatMap((own) =>
    own ? Object.values(own.said).map((said) => said.text) : [])];
  return !words || texts.some((text) => text.toLowerCase().includes(words));
}

function draw() {
  const wanted = questions.filter(isWanted);
  control('questions').replaceChildren(...wanted.slice(0, shown).map(articleOf));
  control('count').textContent = `${wanted.length} of ${questions.length} questions`;
  control('more').hidden = wanted.length <= shown;
}

function fill(select, names, all) {
  select.append(...(all ? [element('option', {value: '', textContent: 'all'})] : []),
    ...names.map((name) => element('option', {value: name, textContent: name})));
}

const about = runs.map(({folder, scores}) => `${folder}: ${scores.questions} questions of ${scores.set}`);
control('about').textContent = about.join('; ');
control('scores').append(
  ...(compared ? [element('h3', {textContent: `${runs[0].folder} minus ${runs[1].folder} (${spaced(compared.rule)}, ${compared.questions} questions of both)`}),
    table(['', 'difference'], Object.entries(compared.ways).map(([way, gap]) => [way, number(gap)]))] : []),
  element('div', {className: 'runs'}, ...runs.map(scoreTables)));
fill(control('way'), ways, false);
control('way').value = ways[ways.length - 1];
for (const name of ['category', 'voice']) {
  const names = [...new Set(questions.map((question) => question[name]).filter(Boolean))].sort();
  fill(control(name), names, true);
  control(name).parentElement.hidden = names.length < 2;
}
if (runs.length < 2) control('differ').remove();
if (!ways.some((way) => way[2] === 'S') || !ways.some((way) => way[2] === 'T')) control('lost').remove();
control('filter').addEventListener('submit', (event) => event.preventDefault());
control('filter').addEventListener('input', () => { shown = PAGE; draw(); });
control('more').addEventListener('click', () => { shown += PAGE; draw(); });
draw();
