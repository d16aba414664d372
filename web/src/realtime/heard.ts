// What the microphone gave: when, and the samples of the last minute.

import { joined, SAMPLE_RATE } from "../audio/pcm.ts";

const KEPT_MS = 60_000;
/** Of the loudest chunk of a turn: what is softer is no word. */
const SOFT = 0.1;

interface Chunk {
  fromMs: number;
  pcm: Int16Array;
  sentAt: number;
}

const lengthMs = ({ pcm }: Chunk): number => (pcm.length * 1000) / SAMPLE_RATE;

/** Positions are milliseconds of all audio that was sent in this session. */
export class Heard {
  #chunks: Chunk[] = [];
  #ms = 0;

  /** All that was sent. */
  get ms(): number {
    return this.#ms;
  }

  /** `now`: the clock's milliseconds. */
  add(pcm: Int16Array, now: number): void {
    this.#chunks.push({ fromMs: this.#ms, pcm, sentAt: now });
    this.#ms += (pcm.length * 1000) / SAMPLE_RATE;
    while (this.#chunks[0] && this.#chunks[0].fromMs < this.#ms - KEPT_MS) this.#chunks.shift();
  }

  /** Returns when this position was recorded, by the clock; undefined = it is not known any more. */
  clockAt(ms: number): number | undefined {
    const chunk = this.#chunks.findLast(({ fromMs }) => fromMs <= ms);
    if (!chunk) return undefined;
    // It came whole: its last sample is as old as its message.
    return chunk.sentAt - lengthMs(chunk) + (ms - chunk.fromMs);
  }

  /** Returns the samples between two positions, to within a chunk. */
  slice(fromMs: number, toMs: number): Int16Array<ArrayBuffer> {
    return joined(this.#between(fromMs, toMs).map(({ pcm }) => pcm));
  }

  /** Returns where the words between two positions end, to within a chunk: a turn ends with silence, and servers differ in
   * how much of it they count. */
  endOfWords(fromMs: number, toMs: number): number {
    const chunks = this.#between(fromMs, toMs);
    const levels = chunks.map(({ pcm }) => Math.sqrt(pcm.reduce((sum, sample) => sum + sample * sample, 0) / pcm.length));
    const loudest = Math.max(0, ...levels);
    const last = chunks[levels.findLastIndex((level) => level > 0 && level >= loudest * SOFT)];
    return last ? last.fromMs + lengthMs(last) : toMs;
  }

  #between(fromMs: number, toMs: number): Chunk[] {
    return this.#chunks.filter((chunk) => chunk.fromMs + lengthMs(chunk) > fromMs && chunk.fromMs < toMs);
  }

  /** A new session counts from 0. */
  restart(): void {
    this.#chunks = [];
    this.#ms = 0;
  }
}
