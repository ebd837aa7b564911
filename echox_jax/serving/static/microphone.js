// Runs beside the page, where sound is recorded: gathers 20 ms at a time and hands them over.

const PIECE = 480;

class MicrophoneProcessor extends AudioWorkletProcessor {
  constructor() {
    super();
    this.held = new Float32Array(PIECE);
    this.count = 0;
  }

  process(inputs) {
    const channel = inputs[0][0];
    for (let i = 0; channel && i < channel.length; i++) {
      this.held[this.count++] = channel[i];
      if (this.count === PIECE) {
        this.port.postMessage(this.held);
        this.held = new Float32Array(PIECE);
        this.count = 0;
      }
    }
    return true;
  }
}

registerProcessor('microphone', MicrophoneProcessor);
