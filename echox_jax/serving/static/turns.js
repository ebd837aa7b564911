// What the page shows of each turn: question, answer, a timeline, sound to hear again and to keep.

import {RATE, joined, wavFile} from './sound.js';

const list = document.getElementById('turns');
const template = document.getElementById('turn');

export class Turn {
  constructor(question) {
    const made = template.content.cloneNode(true);
    this.node = made.querySelector('.turn');
    this.question = [];
    this.answer = [];
    this.asked = this.firstText = this.firstSound = null;
    this.responseId = this.itemId = null;
    this.over = false;
    this.say('question', question);
    list.append(made);
    this.node.scrollIntoView({block: 'nearest'});
  }

  find(selector) {
    return this.node.querySelector(selector);
  }

  say(part, text) {
    this.find(`.${part} .text`).textContent += text;
  }

  // The words that the model heard in a spoken question.
  understands(words) {
    this.find('.question .text').textContent = words ? `(heard) ${words}` : '(no words heard)';
  }

  hears(samples) {
    this.question.push(samples);
    this.draw();
  }

  ask() {
    this.asked = performance.now();
    this.keep('question', this.question);
  }

  writes(text) {
    this.firstText ??= performance.now();
    this.say('answer', text);
  }

  // `at`: when the samples sound, in milliseconds of performance.now().
  speaks(samples, at) {
    this.firstSound ??= {made: performance.now(), heard: at};
    this.answer.push(samples);
    this.draw();
  }

  madeMs() {
    return (1000 * this.answer.reduce((sum, piece) => sum + piece.length, 0)) / RATE;
  }

  end(note) {
    this.over = true;
    if (note) {
      this.say('answer', note);
    }
    this.keep('answer', this.answer);
    this.draw();
  }

  cut() {
    this.node.classList.add('cut');
  }

  keep(part, pieces) {
    if (!pieces.length) {
      return;
    }
    const address = URL.createObjectURL(wavFile(joined(pieces)));
    const box = this.find(`.of-${part}`);
    box.querySelector('audio').src = address;
    box.querySelector('a').href = address;
    box.hidden = false;
  }

  draw() {
    const hearing = this.question.reduce((sum, piece) => sum + piece.length, 0) / RATE;
    const known = this.firstSound && this.asked !== null;
    const thinking = known ? (this.firstSound.made - this.asked) / 1000 : 0;
    const speaking = this.madeMs() / 1000;
    const whole = hearing + thinking + speaking || 1;
    for (const [name, seconds] of Object.entries({hearing, thinking, speaking})) {
      this.find(`.timeline .${name}`).style.width = `${(100 * seconds) / whole}%`;
    }
    const told = [];
    if (hearing) {
      told.push(`heard ${hearing.toFixed(1)} s`);
    }
    if (known) {
      told.push(`first sound after ${Math.round(1000 * thinking)} ms`);
      told.push(`spoke ${speaking.toFixed(1)} s`);
    } else if (this.firstText !== null && this.asked !== null) {
      told.push(`first word after ${Math.round(this.firstText - this.asked)} ms`);
    }
    this.find('.measures').textContent = told.join(', ');
  }
}
