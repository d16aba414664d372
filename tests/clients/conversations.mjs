// What the JavaScript clients' scripts that speak share: conversations.py says what each is for.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";

export const [URL, KEY, MODEL, SOUNDS, SECURE_URL] = process.argv.slice(2);
export const WEATHER = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};
export const OSLO = 'call weather {"city": "Oslo"}\nsay It rains in Oslo.';
export const LONG = Array.from({ length: 300 }, (_, n) => `w${n}`);
export const SCRIPT = `say ${LONG.join(" ")}\n\nread -2`;
export const PNG =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";
const FRAME_BYTES = 24_000 / 50 * 2;

export class Microphone {
  #said = Buffer.alloc(0);
  #sound = readFileSync(`${SOUNDS}/hello.pcm`);
  #isOn = true;

  say() {
    this.#said = this.#sound;
  }

  turnOff() {
    this.#isOn = false;
  }

  // Hands each frame to `take` as it passes.
  async record(take) {
    for (let at = performance.now(); this.#isOn; at += 20) {
      await setTimeout(Math.max(at - performance.now(), 0));
      const frame = Buffer.alloc(FRAME_BYTES);
      this.#said.copy(frame);
      this.#said = this.#said.subarray(FRAME_BYTES);
      take(frame);
    }
  }
}

// A server's events, which are awaited one after another.
export class Events {
  #came = [];
  #wake = () => {};

  // How much audio has come.
  audioMs = 0;

  add(event) {
    if (event.type === "response.output_audio.delta") this.audioMs += Buffer.from(event.delta, "base64").length / 48;
    this.#came.push(event);
    this.#wake();
  }

  async until(type) {
    for (;;) {
      while (!this.#came.length) await new Promise((resolve) => (this.#wake = resolve));
      const event = this.#came.shift();
      if (event.type === "error") throw new Error(JSON.stringify(event));
      if (event.type === type) return event;
    }
  }

  // Returns the transcript of the next answer that is whole.
  async answer() {
    for (;;) {
      const { response } = await this.until("response.done");
      if (response.status === "cancelled") continue;
      assert.equal(response.status, "completed", JSON.stringify(response));
      const message = response.output.find((item) => item.type === "message");
      if (message) return message.content[0].transcript;
    }
  }
}

// Those of LONG that are taken to be heard: see heard_words in conversations.py.
export function heardWords(audioEndMs) {
  assert.ok(audioEndMs > 0 && audioEndMs < 100 * LONG.length, audioEndMs);
  return LONG.slice(0, Math.ceil(audioEndMs / 280)).join(" ");
}

export async function hold(conversations) {
  for (const conversation of conversations) {
    try {
      await conversation();
      console.log(conversation.name);
    } catch (error) {
      console.error(`--- ${conversation.name}\n`, error);
      process.exitCode = 1;
    }
  }
}
