// Describes a sound: a Captioner's only task, which other models are asked for in words.

import { chat, type Part } from "../api/chat.ts";
import { isCaptioner } from "../api/models.ts";
import { partOf, type Attached } from "../files.ts";
import { useTexts } from "../texts/index.ts";
import type { Shown } from "./shown.ts";
import { SoundTask } from "./sound_task.tsx";

export function DescribeView({ client, model, models }: Shown) {
  const t = useTexts();
  const captioner = isCaptioner(model) ? model : (models.find(isCaptioner) ?? model);
  async function* describe(sound: Attached, signal: AbortSignal): AsyncGenerator<string> {
    const prompt: Part[] = isCaptioner(captioner) ? [] : [{ type: "text", text: t.describePrompt }];
    // The sound of a film counts here, not its pictures: preprocess takes any file that has one.
    const content = [await partOf({ ...sound, kind: "audio" }), ...prompt];
    for await (const event of chat(client, { model: captioner.id, messages: [{ role: "user", content }] }, signal)) {
      if (event.type === "text") yield event.text;
    }
  }
  return (
    <SoundTask label={t.describe} hint={t.describeHint} start={t.describeStart} result={t.description} run={describe} />
  );
}
