// Samples: PCM16 in base64 as the socket carries them, wav files, the microphone and the loudspeaker.

export const RATE = 24000;

export function toBase64(samples) {
  const bytes = new Uint8Array(toPcm(samples).buffer);
  let text = '';
  for (let at = 0; at < bytes.length; at += 8192) {
    text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  }
  return btoa(text);
}

export function fromBase64(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({length: bytes.length / 2}, (_, i) => view.getInt16(2 * i, true) / 32768);
}

function toPcm(samples) {
  return Int16Array.from(samples, (value) => Math.max(-32768, Math.min(32767, Math.round(32768 * value))));
}

export function joined(pieces) {
  const whole = new Float32Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

export function wavFile(samples) {
  const header = new DataView(new ArrayBuffer(44));
  const write = (at, text) => [...text].forEach((c, i) => header.setUint8(at + i, c.charCodeAt(0)));
  write(0, 'RIFF');
  header.setUint32(4, 36 + 2 * samples.length, true);
  write(8, 'WAVEfmt ');
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true);
  header.setUint16(22, 1, true);
  header.setUint32(24, RATE, true);
  header.setUint32(28, 2 * RATE, true);
  header.setUint16(32, 2, true);
  header.setUint16(34, 16, true);
  write(36, 'data');
  header.setUint32(40, 2 * samples.length, true);
  return new Blob([header, toPcm(samples)], {type: 'audio/wav'});
}

// A recording of any kind that the browser reads, as samples of one channel.
export async function decode(file) {
  const context = new OfflineAudioContext(1, RATE, RATE);
  const sound = await context.decodeAudioData(await file.arrayBuffer());
  const mixed = new Float32Array(sound.length);
  for (let channel = 0; channel < sound.numberOfChannels; channel++) {
    sound.getChannelData(channel).forEach((value, i) => {
      mixed[i] += value / sound.numberOfChannels;
    });
  }
  return mixed;
}

// The microphone: calls `take` with pieces of samples while it is on.
export class Microphone {
  constructor(take) {
    this.take = take;
    this.context = null;
  }

  async open() {
    if (this.context) {
      return;
    }
    const stream = await navigator.mediaDevices.getUserMedia({
      audio: {channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true},
    });
    const context = new AudioContext({sampleRate: RATE});
    await context.audioWorklet.addModule('microphone.js');
    const node = new AudioWorkletNode(context, 'microphone', {numberOfOutputs: 0});
    node.port.onmessage = (message) => this.take(message.data);
    context.createMediaStreamSource(stream).connect(node);
    this.context = context;
  }
}

// The loudspeaker: plays pieces one behind the other, and knows how much of them was heard.
export class Player {
  constructor() {
    this.context = null;
    this.pieces = [];
    this.next = 0;
  }

  open() {
    this.context ??= new AudioContext({sampleRate: RATE});
    return this.context.resume();
  }

  begin() {
    this.stop();
    this.pieces = [];
  }

  // Returns the time at which it sounds, in milliseconds of performance.now().
  play(samples) {
    this.open();
    const sound = this.context.createBuffer(1, samples.length, RATE);
    sound.copyToChannel(samples, 0);
    const node = this.context.createBufferSource();
    node.buffer = sound;
    node.connect(this.context.destination);
    const start = Math.max(this.next, this.context.currentTime + 0.01);
    node.start(start);
    this.next = start + sound.duration;
    this.pieces.push({node, start, seconds: sound.duration});
    return performance.now() + 1000 * (start - this.context.currentTime);
  }

  stop() {
    for (const {node} of this.pieces) {
      node.stop();
    }
    this.next = 0;
  }

  isPlaying() {
    return this.leftMs() > 0;
  }

  leftMs() {
    return this.context ? Math.max(0, 1000 * (this.next - this.context.currentTime)) : 0;
  }

  heardMs() {
    const now = this.context ? this.context.currentTime : 0;
    const heard = this.pieces.map(({start, seconds}) => Math.max(0, Math.min(seconds, now - start)));
    return Math.floor(1000 * heard.reduce((sum, value) => sum + value, 0));
  }
}
