// What the gateway serves, as far as this key may use it.

import { request, type Client } from "./client.ts";

export interface Model {
  id: string;
  voices: string[];
  default_voice?: string;
}

export async function listModels(client: Client): Promise<Model[]> {
  const listed = (await (await request(client, "/v1/models")).json()) as { data: Partial<Model>[] };
  return listed.data.map((model) => ({ ...model, id: model.id ?? "", voices: model.voices ?? [] }));
}

/** Whether it is the checkpoint of random weights that the local stack makes: its name says so. */
export const isRandom = (model: Model): boolean => /^tiny\b/i.test(model.id);

/** Whether it is the local stack's trained checkpoint, which knows a small world alone: its name says so. */
export const isSmallWorld = (model: Model): boolean => /^small-world\b/i.test(model.id);

/** Whether it takes one audio and no text, and describes it. The name is all that tells. */
export const isCaptioner = (model: Model): boolean => /captioner/i.test(model.id);
