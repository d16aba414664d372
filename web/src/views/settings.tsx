// Key, model, voice, language and colours.

import { useEffect, useState } from "preact/hooks";
import type { Model } from "../api/models.ts";
import type { Settings, Theme } from "../settings.ts";
import { LANGUAGES, useTexts, type Language } from "../texts/index.ts";

interface Props {
  settings: Settings;
  change: (changes: Partial<Settings>) => void;
  models: Model[];
  model: Model | undefined;
  voice: string;
  needsKey: boolean;
}

export function SettingsView({ settings, change, models, model, voice, needsKey }: Props) {
  const t = useTexts();
  const [isOpen, setOpen] = useState(false);
  useEffect(() => {
    if (needsKey) setOpen(true);
  }, [needsKey]);
  return (
    <details class="settings" open={isOpen} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>{t.settings}</summary>
      <div class="fields">
        <KeyField settings={settings} change={change} />
        <label>
          {t.model}
          <select value={model?.id ?? ""} onChange={(event) => change({ model: event.currentTarget.value })}>
            {models.map(({ id }) => <option key={id} value={id}>{id}</option>)}
          </select>
        </label>
        {model && model.voices.length === 0 ? (
          <p>{t.noVoice}</p>
        ) : (
          <label>
            {t.voice}
            <select value={voice} onChange={(event) => change({ voice: event.currentTarget.value })}>
              {model?.voices.map((name) => <option key={name} value={name}>{name}</option>)}
            </select>
          </label>
        )}
        <label>
          {t.language}
          <select value={settings.language} onChange={(event) => change({ language: event.currentTarget.value as Language })}>
            {Object.entries(LANGUAGES).map(([code, { name }]) => <option key={code} value={code} lang={code}>{name}</option>)}
          </select>
        </label>
        <label>
          {t.theme}
          <select value={settings.theme} onChange={(event) => change({ theme: event.currentTarget.value as Theme })}>
            <option value="auto">{t.themeAuto}</option>
            <option value="light">{t.themeLight}</option>
            <option value="dark">{t.themeDark}</option>
          </select>
        </label>
      </div>
    </details>
  );
}

/** The key holds once the field is left, or Enter is pressed: not each letter of it is asked with. */
function KeyField({ settings, change }: Pick<Props, "settings" | "change">) {
  const t = useTexts();
  const [isShown, setShown] = useState(false);
  const [typed, setTyped] = useState(settings.key);
  const use = () => change({ key: typed.trim() });
  return (
    <form
      class="key"
      onSubmit={(event) => {
        event.preventDefault();
        use();
      }}
    >
      <label>
        {t.key}
        <input
          {...(isShown ? { type: "text" as const } : { type: "password" as const })}
          value={typed}
          autocomplete="off"
          autocapitalize="off"
          spellcheck={false}
          aria-describedby="key-help"
          onInput={(event) => setTyped(event.currentTarget.value)}
          onBlur={use}
        />
      </label>
      <p id="key-help" class="hint">{t.keyHelp}</p>
      <label class="check">
        <input type="checkbox" checked={isShown} onChange={(event) => setShown(event.currentTarget.checked)} />
        {t.showKey}
      </label>
      <label class="check">
        <input type="checkbox" checked={settings.keepsKey} onChange={(event) => change({ keepsKey: event.currentTarget.checked })} />
        {t.keepKey}
      </label>
    </form>
  );
}
