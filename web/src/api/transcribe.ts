// Transcriptions, as they are written.

import { streamed, type Client } from "./client.ts";

export interface TranscriptionOptions {
  model: string;
  file: Blob;
  name: string;
  /** A code such as "en"; empty = the model tells. */
  language: string;
}

export async function* transcribe(
  client: Client,
  options: TranscriptionOptions,
  signal: AbortSignal,
): AsyncGenerator<string> {
  const body = new FormData();
  body.set("model", options.model);
  if (options.language) body.set("language", options.language);
  body.set("stream", "true");
  body.set("file", options.file, options.name);
  for await (const event of streamed(client, "/v1/audio/transcriptions", { body, signal })) {
    const { type, delta } = event as { type?: string; delta?: string };
    if (type === "transcript.text.delta" && delta) yield delta;
  }
}
