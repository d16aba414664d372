/// <reference types="audioworklet" />
// Speech, off the main thread: plays what it is given, and says how much of it was heard.

import type { FromPlayback, ToPlayback } from "./playback.ts";

/** How often the position is told, in blocks of 128 samples: 32 ms at 24 kHz. */
const REPORT_BLOCKS = 6;

class Playback extends AudioWorkletProcessor {
  #queue: { item: string; samples: Float32Array; at: number }[] = [];
  /** The item that is heard, and how many of its samples were. */
  #item = "";
  #played = 0;
  #blocks = 0;
  #isDry = true;

  constructor() {
    super();
    this.port.onmessage = ({ data }: MessageEvent<ToPlayback>) => {
      if (data.type === "play") {
        this.#queue.push({ item: data.item, samples: data.samples, at: 0 });
      } else {
        this.#queue = [];
        this.#isDry = true;
      }
    };
  }

  process(_: Float32Array[][], [output]: Float32Array[][]): boolean {
    const channels = output ?? [];
    const length = channels[0]?.length ?? 0;
    let written = 0;
    while (written < length) {
      const head = this.#queue[0];
      if (!head) break;
      if (head.item !== this.#item) {
        this.#item = head.item;
        this.#played = 0;
      }
      if (this.#isDry) {
        this.#isDry = false;
        this.#tell(this.#played === 0 ? "started" : "position");
      }
      const taken = Math.min(length - written, head.samples.length - head.at);
      for (const channel of channels) channel.set(head.samples.subarray(head.at, head.at + taken), written);
      head.at += taken;
      written += taken;
      this.#played += taken;
      if (head.at === head.samples.length) this.#queue.shift();
    }
    if (written < length && !this.#isDry) {
      this.#isDry = true;
      this.#tell("dry");
    } else if (written > 0 && ++this.#blocks % REPORT_BLOCKS === 0) {
      this.#tell("position");
    }
    return true;
  }

  #tell(type: FromPlayback["type"]): void {
    this.port.postMessage({ type, item: this.#item, samples: this.#played } satisfies FromPlayback);
  }
}

registerProcessor("playback", Playback);
