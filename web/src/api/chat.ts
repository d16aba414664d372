// Chat completions: the messages as they are sent, and the answer as it comes.

import { pcmOfBase64 } from "../audio/pcm.ts";
import { streamed, type Client } from "./client.ts";

export type Part =
  | { type: "text"; text: string }
  | { type: "image_url"; image_url: { url: string } }
  | { type: "input_audio"; input_audio: { data: string; format: string } }
  | { type: "video_url"; video_url: { url: string } };

export type Message =
  { role: "user"; content: Part[] } | { role: "assistant"; content: string } | { role: "system"; content: string };

export interface ChatOptions {
  model: string;
  messages: Message[];
  /** The voice that speaks the answer; none = text alone. */
  voice?: string;
}

export type ChatEvent =
  | { type: "text"; text: string }
  | { type: "thought"; text: string }
  | { type: "audio"; pcm: Int16Array<ArrayBuffer> }
  | { type: "end"; reason: string };

interface Chunk {
  choices?: {
    delta: { content?: string | null; reasoning_content?: string; audio?: { transcript?: string; data?: string } };
    finish_reason: string | null;
  }[];
}

/** Yields the answer's text, speech (24 kHz) and end. Closing the generator, or the signal, ends the turn. */
export async function* chat(client: Client, options: ChatOptions, signal: AbortSignal): AsyncGenerator<ChatEvent> {
  const speech = options.voice
    ? { modalities: ["text", "audio"], audio: { voice: options.voice, format: "pcm16" } }
    : { modalities: ["text"] };
  const body = JSON.stringify({ model: options.model, messages: options.messages, stream: true, ...speech });
  const headers = { "content-type": "application/json" };
  for await (const event of streamed(client, "/v1/chat/completions", { body, headers, signal })) {
    for (const { delta, finish_reason } of (event as Chunk).choices ?? []) {
      if (delta.reasoning_content) yield { type: "thought", text: delta.reasoning_content };
      const text = (delta.content ?? "") + (delta.audio?.transcript ?? "");
      if (text) yield { type: "text", text };
      if (delta.audio?.data) yield { type: "audio", pcm: pcmOfBase64(delta.audio.data) };
      if (finish_reason) yield { type: "end", reason: finish_reason };
    }
  }
}
