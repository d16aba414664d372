// The page: what is served, what the user has set, and one panel for each mode.

import { useCallback, useEffect, useMemo, useState } from "preact/hooks";
import { isRandom, isSmallWorld, listModels, type Model } from "./api/models.ts";
import { keepSettings, readSettings, type Settings } from "./settings.ts";
import { errorText, LANGUAGES, TextsContext } from "./texts/index.ts";
import { Alert } from "./views/alert.tsx";
import { CallView } from "./views/call.tsx";
import { ChatView } from "./views/chat.tsx";
import { DescribeView } from "./views/describe.tsx";
import { SettingsView } from "./views/settings.tsx";
import { Tabs } from "./views/tabs.tsx";
import { TranscribeView } from "./views/transcribe.tsx";

export type Served = { state: "loading" } | { state: "failed"; error: unknown } | { state: "known"; models: Model[] };

export function App() {
  const [settings, setSettings] = useState(readSettings);
  const [served, setServed] = useState<Served>({ state: "loading" });
  const [asked, setAsked] = useState(0);
  const t = LANGUAGES[settings.language].texts;
  const change = useCallback((changes: Partial<Settings>) => setSettings((before) => ({ ...before, ...changes })), []);
  const client = useMemo(() => ({ key: settings.key }), [settings.key]);

  useEffect(() => keepSettings(settings), [settings]);
  useEffect(() => {
    document.documentElement.lang = t.lang;
    document.documentElement.dataset["theme"] = settings.theme;
  }, [t, settings.theme]);
  useEffect(() => {
    let isCurrent = true;
    setServed({ state: "loading" });
    listModels(client).then(
      (models) => isCurrent && setServed({ state: "known", models }),
      (error: unknown) => isCurrent && setServed({ state: "failed", error }),
    );
    return () => void (isCurrent = false);
  }, [client, asked]);

  const models = served.state === "known" ? served.models : [];
  const model = models.find((each) => each.id === settings.model) ?? models[0];
  const voice = model && (model.voices.includes(settings.voice) ? settings.voice : (model.default_voice ?? model.voices[0] ?? ""));
  const shown = model && { client, model, models, voice: voice ?? "" };

  return (
    <TextsContext.Provider value={t}>
      <header>
        <h1>{t.title}</h1>
        <SettingsView settings={settings} change={change} models={models} model={model} voice={voice ?? ""} needsKey={needsKey(served)} />
      </header>
      <main>
        {model && isRandom(model) && <p class="notice" role="note">{t.random}</p>}
        {model && isSmallWorld(model) && <p class="notice" role="note">{t.smallWorld}</p>}
        {served.state === "loading" && <p role="status">{t.loading}</p>}
        {served.state === "failed" && (
          <Alert text={errorText(served.error, t)}>
            <button type="button" onClick={() => setAsked((n) => n + 1)}>{t.retry}</button>
          </Alert>
        )}
        {served.state === "known" && !model && (
          <Alert text={t.noModel}>
            <button type="button" onClick={() => setAsked((n) => n + 1)}>{t.retry}</button>
          </Alert>
        )}
        {shown && (
          <Tabs
            label={t.modes}
            tabs={[
              { id: "chat", name: t.chat, panel: <ChatView {...shown} /> },
              { id: "call", name: t.call, panel: <CallView {...shown} /> },
              { id: "describe", name: t.describe, panel: <DescribeView {...shown} /> },
              { id: "transcribe", name: t.transcribe, panel: <TranscribeView {...shown} /> },
            ]}
          />
        )}
      </main>
    </TextsContext.Provider>
  );
}

const needsKey = (served: Served): boolean =>
  served.state === "failed" && (served.error as { status?: number }).status === 401;
