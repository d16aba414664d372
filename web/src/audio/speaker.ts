// Plays the spoken answers of a chat as they come.

import { Playback } from "./playback.ts";
import { SAMPLE_RATE } from "./pcm.ts";

/** Opened by the user's own act, before the first sample: browsers play nothing otherwise. */
export class Speaker {
  #context: AudioContext | undefined;
  #playback: Playback | undefined;

  async open(): Promise<void> {
    if (!this.#context) {
      this.#context = new AudioContext({ sampleRate: SAMPLE_RATE });
      this.#playback = await Playback.open(this.#context);
    }
    await this.#context.resume();
  }

  play(item: string, pcm: Int16Array): void {
    this.#playback?.play(item, pcm);
  }

  stop(): void {
    this.#playback?.clear();
  }
}
