// One sound in, a text out: what describing and transcribing have in common.

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { isAbort } from "../api/errors.ts";
import { attach, type Attached } from "../files.ts";
import { errorText, useTexts } from "../texts/index.ts";
import { Alert } from "./alert.tsx";
import { Attachments } from "./attachments.tsx";
import { RecordButton } from "./record_button.tsx";

interface Props {
  label: string;
  hint: string;
  start: string;
  result: string;
  /** Yields the text as it comes. */
  run: (sound: Attached, signal: AbortSignal) => AsyncIterable<string>;
  children?: ComponentChildren;
}

export function SoundTask({ label, hint, start, result, run, children }: Props) {
  const t = useTexts();
  const [sound, setSound] = useState<Attached>();
  const [text, setText] = useState("");
  const [error, setError] = useState("");
  const [status, setStatus] = useState("");
  const [running, setRunning] = useState<AbortController>();
  const picker = useRef<HTMLInputElement>(null);
  useEffect(() => () => running?.abort(), [running]);

  function use(file: Blob | undefined, name: string) {
    if (!file) return;
    const attached = attach(file, name);
    if (!attached || attached.kind === "image") {
      setError(t.wrongType(name));
      return;
    }
    if (sound) URL.revokeObjectURL(sound.url);
    setError("");
    setSound(attached);
  }
  async function go() {
    if (!sound) return;
    const stopping = new AbortController();
    setRunning(stopping);
    setText("");
    setError("");
    setStatus(t.answering);
    try {
      for await (const delta of run(sound, stopping.signal)) setText((before) => before + delta);
      setStatus(t.answered);
    } catch (failure) {
      setStatus(isAbort(failure) ? t.stopped : "");
      if (!isAbort(failure)) setError(errorText(failure, t));
    } finally {
      setRunning(undefined);
    }
  }
  async function copy() {
    await navigator.clipboard.writeText(text);
    setStatus(t.copied);
  }
  return (
    <section aria-label={label}>
      <p class="hint">{hint}</p>
      <div class="actions">
        <button type="button" onClick={() => picker.current?.click()}>{t.chooseSound}</button>
        <input
          ref={picker}
          type="file"
          hidden
          accept="audio/*,video/*"
          onChange={(event) => {
            const file = event.currentTarget.files?.[0];
            use(file, file?.name ?? "");
            event.currentTarget.value = "";
          }}
        />
        <RecordButton onRecorded={use} onError={setError} />
        {children}
        {running ? (
          <button type="button" class="primary" onClick={() => running.abort()}>{t.stop}</button>
        ) : (
          <button type="button" class="primary" disabled={!sound} onClick={() => void go()}>{start}</button>
        )}
      </div>
      {sound ? <Attachments files={[sound]} /> : <p class="hint">{t.noSound}</p>}
      <p class="status" role="status">{status}</p>
      {error && <Alert text={error} />}
      <h2>{result}</h2>
      <div class="result" role="region" aria-label={result} aria-busy={running !== undefined} tabIndex={0}>{text}</div>
      {text && !running && navigator.clipboard && (
        <div class="actions">
          <button type="button" onClick={() => void copy()}>{t.copy}</button>
        </div>
      )}
    </section>
  );
}
