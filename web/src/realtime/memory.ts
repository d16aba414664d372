// What the page keeps of a call, to tell the next session if the connection is lost: a session ends with its connection.

import { base64OfPcm, SAMPLE_RATE } from "../audio/pcm.ts";
import { heardText, type Caption } from "./captions.ts";
import type { Item } from "./events.ts";

/** An event may be as large as 4 MiB by default: half a minute is 2. */
const MAX_SAMPLES = SAMPLE_RATE * 30;
const MAX_ITEMS = 24;
/** Sounds are kept of the last turns alone. */
const MAX_SOUNDS = 6;
const MIN_SAMPLES = SAMPLE_RATE / 10;

/** Returns the items of a conversation: the model's words as far as they were heard, the user's words where they are
 * known, and else their sound. */
export function itemsOf(captions: readonly Caption[], sounds: ReadonlyMap<string, Int16Array>): Item[] {
  const last = captions.slice(-MAX_ITEMS);
  const wordless = last.filter(({ role, text, id }) => role === "user" && !text && sounds.has(id)).slice(-MAX_SOUNDS);
  return last.flatMap((caption): Item[] => {
    if (caption.role === "assistant") {
      const text = heardText(caption, SAMPLE_RATE);
      return text ? [{ type: "message", role: "assistant", content: [{ type: "output_text", text }] }] : [];
    }
    if (caption.text) return [{ type: "message", role: "user", content: [{ type: "input_text", text: caption.text }] }];
    const sound = wordless.includes(caption) ? sounds.get(caption.id)?.slice(0, MAX_SAMPLES) : undefined;
    if (!sound || sound.length < MIN_SAMPLES) return [];
    return [{ type: "message", role: "user", content: [{ type: "input_audio", audio: base64OfPcm(sound) }] }];
  });
}
