// What the page and the playback worklet tell each other, and the page's side of it.

import playbackUrl from "./playback.worklet.ts?worker&url";
import { floatsOf } from "./pcm.ts";

export type ToPlayback = { type: "play"; item: string; samples: Float32Array } | { type: "clear" };

/** `samples`: how many of the item's were played. started = its first one; dry = there is nothing more to play. */
export interface FromPlayback {
  type: "started" | "position" | "dry";
  item: string;
  samples: number;
}

export class Playback {
  /** How many samples of each item were played. */
  readonly played = new Map<string, number>();
  onEvent: (event: FromPlayback) => void = () => undefined;
  readonly #node: AudioWorkletNode;

  private constructor(node: AudioWorkletNode) {
    this.#node = node;
    node.port.onmessage = ({ data }: MessageEvent<FromPlayback>) => {
      this.played.set(data.item, data.samples);
      this.onEvent(data);
    };
  }

  /** `context` must have SAMPLE_RATE. */
  static async open(context: AudioContext): Promise<Playback> {
    await context.audioWorklet.addModule(playbackUrl);
    const node = new AudioWorkletNode(context, "playback", { numberOfInputs: 0, outputChannelCount: [1] });
    node.connect(context.destination);
    return new Playback(node);
  }

  play(item: string, pcm: Int16Array): void {
    const samples = floatsOf(pcm);
    this.#node.port.postMessage({ type: "play", item, samples } satisfies ToPlayback, [samples.buffer]);
  }

  /** Falls silent, and forgets what was not played. */
  clear(): void {
    this.#node.port.postMessage({ type: "clear" } satisfies ToPlayback);
  }

  close(): void {
    this.#node.disconnect();
    this.#node.port.close();
  }
}
