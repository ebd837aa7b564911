// The page: a client of the socket, like any other.

import {Connection} from './socket.js';
import {Microphone, Player, RATE, decode, fromBase64, joined, toBase64} from './sound.js';
import {Turn} from './turns.js';

const element = (id) => document.getElementById(id);
const connection = new Connection();
const player = new Player();
const microphone = new Microphone(listen);
const IGNORED = new Set(['response_cancel_not_active']);
const NUMBERS = ['temperature', 'top_p', 'top_k', 'repetition_penalty', 'seed'];
const KEPT_SECONDS = 150;
const POLL_MS = 1000;

let ready = false;
let hears = false; // whether the model takes spoken questions
let handsFree = false;
let talking = false;
let turn = null; // the newest
let responding = null; // the turn that is being answered
const spoken = new Map(); // turns by the item of their spoken question
let heard = {pieces: [], first: 0, count: 0}; // what was sent, for replay: samples of the session

function tell(text, alarm = false) {
  element('status').textContent = text;
  element('status').classList.toggle('alarm', alarm);
}

// Tells that it is the turn of the user, when the answer has been heard.
function rest() {
  if (player.isPlaying()) {
    setTimeout(() => responding || rest(), player.leftMs());
  } else if (!talking) {
    tell(handsFree ? 'Listening. Just speak.' : 'Ready.');
  }
}

function enable(on) {
  ready = on;
  for (const id of ['send', 'stop']) {
    element(id).disabled = !on;
  }
  for (const id of ['talk', 'hands-free', 'file']) {
    element(id).disabled = !(on && hears);
  }
}

function settings() {
  const sampling = Object.fromEntries(NUMBERS.map((name) => [name, Number(element(name).value)]));
  const most = Number(element('max_output_tokens').value);
  return {
    type: 'realtime',
    output_modalities: [element('spoken').checked ? 'audio' : 'text'],
    max_output_tokens: most > 0 ? most : 'inf',
    sampling,
    audio: {
      input: {
        format: {type: 'audio/pcm', rate: RATE},
        transcription: hears ? {model: 'ctc'} : null,
        turn_detection: handsFree ? {type: 'server_vad'} : null,
      },
    },
  };
}

function update() {
  connection.send('session.update', {session: settings()});
}

// Asking

function begin(question) {
  interrupt();
  turn = new Turn(question);
  return turn;
}

function ask() {
  turn.ask();
  player.begin();
  connection.send('response.create');
}

function append(samples) {
  connection.send('input_audio_buffer.append', {audio: toBase64(samples)});
  heard.pieces.push(samples);
  heard.count += samples.length;
  while (heard.count - heard.first > KEPT_SECONDS * RATE) {
    heard.first += heard.pieces.shift().length;
  }
}

function listen(samples) {
  if (!ready || !(talking || handsFree)) {
    return;
  }
  append(samples);
  if (talking) {
    turn.hears(samples);
  }
}

async function openSound() {
  try {
    await Promise.all([player.open(), microphone.open()]);
    return true;
  } catch (error) {
    tell(`The microphone cannot be used (${error.name}): allow it, or write your question.`, true);
    return false;
  }
}

async function startTalking() {
  if (!ready || !hears || talking || handsFree) {
    return;
  }
  talking = true;
  element('talk').classList.add('on');
  if (!(await openSound())) {
    stopTalking();
    return;
  }
  if (talking) {
    connection.send('input_audio_buffer.clear');
    begin('(spoken)');
    tell('Listening. Release to ask.');
  }
}

function stopTalking() {
  if (!talking) {
    return;
  }
  talking = false;
  element('talk').classList.remove('on');
  if (turn && turn.asked === null && turn.question.length) {
    connection.send('input_audio_buffer.commit');
    ask();
    tell('Thinking.');
  }
}

async function toggleHandsFree() {
  if (!handsFree && !(await openSound())) {
    return;
  }
  handsFree = !handsFree;
  element('hands-free').setAttribute('aria-pressed', String(handsFree));
  element('talk').disabled = handsFree;
  update();
  connection.send('input_audio_buffer.clear');
  tell(handsFree ? 'Listening. Just speak.' : 'Ready.');
}

function write(submit) {
  submit.preventDefault();
  const text = element('text').value.trim();
  if (!ready || !text) {
    return;
  }
  element('text').value = '';
  player.open();
  begin(text);
  connection.send('conversation.item.create', {
    item: {type: 'message', role: 'user', content: [{type: 'input_text', text}]},
  });
  ask();
}

async function sendFile() {
  const [file] = element('file').files;
  element('file').value = '';
  if (!ready || !file || handsFree) {
    tell(handsFree ? 'Switch hands-free off before you send a file.' : 'Choose a file.');
    return;
  }
  player.open();
  let samples;
  try {
    samples = await decode(file);
  } catch {
    tell('This file is no sound that the browser can read: choose another one.', true);
    return;
  }
  begin(`(${file.name})`);
  connection.send('input_audio_buffer.clear');
  for (let at = 0; at < samples.length; at += RATE) {
    append(samples.slice(at, at + RATE));
  }
  turn.hears(samples);
  connection.send('input_audio_buffer.commit');
  ask();
}

// Stops what is being said; the server learns how much of it was heard.
function interrupt(cancelled = false) {
  const playing = player.isPlaying();
  const last = responding ?? turn;
  if (responding && !cancelled) {
    connection.send('response.cancel');
  }
  if (playing && last && last.itemId) {
    const heardMs = Math.min(player.heardMs(), Math.floor(last.madeMs()));
    connection.send('conversation.item.truncate', {
      item_id: last.itemId,
      content_index: 0,
      audio_end_ms: heardMs,
    });
  }
  if (last && (playing || responding)) {
    last.cut();
  }
  responding?.end('');
  player.stop();
  responding = null;
  rest();
}

// What the server says

const handlers = {
  // A server that never listens for turns has a model that only reads.
  'session.created': (event) => {
    hears = event.session.audio.input.turn_detection !== null;
    enable(true);
    update();
    tell('Ready.');
  },
  'input_audio_buffer.speech_started': (event) => {
    interrupt(true);
    turn = new Turn('(spoken)');
    turn.begins = event.audio_start_ms;
    tell('Listening.');
  },
  'input_audio_buffer.speech_stopped': (event) => {
    const sample = (ms) => Math.max(0, Math.round((ms * RATE) / 1000) - heard.first);
    const said = joined(heard.pieces).slice(sample(turn.begins), sample(event.audio_end_ms));
    turn.hears(said);
    turn.ask();
    player.begin();
    tell('Thinking.');
  },
  'input_audio_buffer.committed': (event) => spoken.set(event.item_id, turn),
  'conversation.item.input_audio_transcription.completed': (event) =>
    spoken.get(event.item_id)?.understands(event.transcript),
  'response.created': (event) => {
    responding = turn;
    if (turn) {
      turn.responseId = event.response.id;
    }
  },
  'response.output_item.added': (event) => {
    if (mine(event)) {
      responding.itemId = event.item.id;
    }
  },
  'response.output_audio_transcript.delta': (event) => mine(event) && responding.writes(event.delta),
  'response.output_text.delta': (event) => mine(event) && responding.writes(event.delta),
  'response.output_audio.delta': (event) => {
    if (mine(event)) {
      const samples = fromBase64(event.delta);
      responding.speaks(samples, player.play(samples));
      tell('Speaking.');
    }
  },
  'response.done': (event) => {
    const {id, status, status_details: details} = event.response;
    if (!responding || responding.responseId !== id) {
      return;
    }
    const failed = status === 'failed';
    responding.end(failed ? 'There is no answer.' : '');
    responding = null;
    if (failed) {
      tell(details.error.message ?? 'The server could not answer.', true);
    } else {
      rest();
    }
  },
  error: (event) => {
    if (!IGNORED.has(event.error.code)) {
      tell(event.error.message, true);
    }
  },
};

function mine(event) {
  return responding !== null && responding.responseId === event.response_id;
}

async function closed(close) {
  enable(false);
  talking = false;
  player.stop();
  const why = close.reason || (await reason());
  tell(`The connection has ended. ${why} Load the page again to connect.`, true);
}

async function reason() {
  try {
    return (await isServerReady())
      ? 'The server may be full, or the token missing: open the address with #token=YOUR_TOKEN.'
      : 'The server is starting or stopping.';
  } catch {
    return 'The server cannot be reached.';
  }
}

async function isServerReady() {
  return (await fetch('readyz')).ok;
}

// A server that has just started compiles before it takes connections: the page waits for it.
async function open() {
  const waits = () => new Promise((done) => setTimeout(done, POLL_MS));
  while (!(await isServerReady().catch(() => false))) {
    tell('The server is starting. This page connects as soon as it is ready.');
    await waits();
  }
  connection.open();
}

// Wiring

connection.addEventListener('any', ({detail}) => handlers[detail.type]?.(detail));
connection.addEventListener('closed', ({detail}) => closed(detail));
element('talk').addEventListener('pointerdown', startTalking);
addEventListener('pointerup', stopTalking);
addEventListener('pointercancel', stopTalking);
element('hands-free').addEventListener('click', toggleHandsFree);
element('stop').addEventListener('click', () => interrupt());
element('write').addEventListener('submit', write);
element('file').addEventListener('change', sendFile);
for (const name of [...NUMBERS, 'max_output_tokens', 'spoken']) {
  element(name).addEventListener('change', update);
}
for (const name of ['temperature', 'top_p']) {
  element(name).addEventListener('input', () => {
    element(`${name}-value`).textContent = element(name).value;
  });
}

const typing = (target) => target.closest('input, summary, audio, a, button:not(#talk)') !== null;
addEventListener('keydown', (event) => {
  if (event.key === 'Escape') {
    interrupt();
  } else if (event.key === ' ' && !event.repeat && !typing(event.target)) {
    event.preventDefault();
    startTalking();
  }
});
addEventListener('keyup', (event) => {
  if (event.key === ' ') {
    stopTalking();
  }
});

open();
