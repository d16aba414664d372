/// <reference types="audioworklet" />
// The microphone, off the main thread: chunks of 40 ms at 24 kHz.

import { Averager } from "./averager.ts";
import { SAMPLE_RATE } from "./pcm.ts";

const CHUNK = (SAMPLE_RATE * 40) / 1000;

class Capture extends AudioWorkletProcessor {
  readonly #averager = new Averager(sampleRate, SAMPLE_RATE);
  #chunk = new Int16Array(CHUNK);
  #length = 0;

  process([input]: Float32Array[][]): boolean {
    const channel = input?.[0];
    if (channel) this.#averager.push(channel, this.#emit);
    return true;
  }

  readonly #emit = (sample: number): void => {
    this.#chunk[this.#length++] = Math.max(-1, Math.min(1, sample)) * 32_767;
    if (this.#length < CHUNK) return;
    this.port.postMessage(this.#chunk, [this.#chunk.buffer]);
    this.#chunk = new Int16Array(CHUNK);
    this.#length = 0;
  };
}

registerProcessor("capture", Capture);
