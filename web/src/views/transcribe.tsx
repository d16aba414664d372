// Writes what is said.

import { useState } from "preact/hooks";
import { isCaptioner } from "../api/models.ts";
import { transcribe } from "../api/transcribe.ts";
import { useTexts } from "../texts/index.ts";
import type { Shown } from "./shown.ts";
import { SoundTask } from "./sound_task.tsx";

/** Of the model's documents. Their names come from the browser, in the page's language. */
const LANGUAGES = [
  "ar", "de", "en", "es", "fr", "id", "it", "ja", "ko", "ms", "nl", "pt", "ru", "tr", "ur", "vi", "yue", "zh",
];

export function TranscribeView({ client, model, models }: Shown) {
  const t = useTexts();
  const [language, setLanguage] = useState("");
  const names = new Intl.DisplayNames([t.lang], { type: "language" });
  const writer = isCaptioner(model) ? (models.find((each) => !isCaptioner(each)) ?? model) : model;
  return (
    <SoundTask
      label={t.transcribe}
      hint={t.transcribeHint}
      start={t.transcribeStart}
      result={t.transcript}
      run={({ file, name }, signal) => transcribe(client, { model: writer.id, file, name, language }, signal)}
    >
      <label>
        {t.spokenLanguage}
        <select value={language} onChange={(event) => setLanguage(event.currentTarget.value)}>
          <option value="">{t.anyLanguage}</option>
          {LANGUAGES.map((code) => <option key={code} value={code}>{names.of(code)}</option>)}
        </select>
      </label>
    </SoundTask>
  );
}
