// Chat: a conversation in text, pictures, sounds and films, answered in text and, where wanted, in speech.

import { useEffect, useRef, useState } from "preact/hooks";
import { isAbort } from "../api/errors.ts";
import { Speaker } from "../audio/speaker.ts";
import { Conversation } from "../conversation.ts";
import { attach, type Attached } from "../files.ts";
import { errorText, useTexts } from "../texts/index.ts";
import { Alert } from "./alert.tsx";
import { Composer } from "./composer.tsx";
import { MessageView } from "./message.tsx";
import type { Shown } from "./shown.ts";

export function ChatView({ client, model, voice }: Shown) {
  const t = useTexts();
  const [conversation] = useState(() => new Conversation());
  const [speaker] = useState(() => new Speaker());
  const [, redraw] = useState(0);
  const [error, setError] = useState("");
  const [status, setStatus] = useState("");
  const [speaks, setSpeaks] = useState(true);
  const running = useRef<AbortController | undefined>(undefined);
  const end = useRef<HTMLDivElement>(null);
  conversation.onChange = () => redraw((n) => n + 1);
  const last = conversation.turns.at(-1);

  useEffect(() => end.current?.scrollIntoView({ block: "nearest" }), [conversation.turns.length, last?.text, last?.speechUrl]);
  useEffect(() => () => running.current?.abort(), []);

  async function send(text: string, files: Attached[]) {
    setError("");
    setStatus(t.answering);
    const spoken = speaks && voice ? voice : undefined;
    const stopping = (running.current = new AbortController());
    try {
      // Without a device the answer still comes, and its file can be played later.
      if (spoken) await speaker.open().catch(() => undefined);
      await conversation.ask(client, { model: model.id, text, files, voice: spoken, speaker }, stopping.signal);
      setStatus(t.answered);
    } catch (failure) {
      setStatus(isAbort(failure) ? t.stopped : "");
      if (!isAbort(failure)) setError(errorText(failure, t));
    } finally {
      if (running.current === stopping) running.current = undefined;
      redraw((n) => n + 1);
    }
  }
  function stop() {
    running.current?.abort();
    speaker.stop();
  }
  function clear() {
    stop();
    conversation.clear();
    setError("");
    setStatus("");
  }
  return (
    <section class="chat" aria-label={t.conversation}>
      <div class="messages" role="log" aria-label={t.conversation} aria-busy={running.current !== undefined} tabIndex={0}>
        {conversation.turns.length === 0 && <p class="hint">{t.nothingYet}</p>}
        {conversation.turns.map((turn) => <MessageView key={turn.id} turn={turn} />)}
        <div ref={end} />
      </div>
      <p class="status" role="status">{status}</p>
      {error && <Alert text={error} />}
      <Composer
        isRunning={running.current !== undefined}
        onSend={(text, files) => void send(text, files)}
        onStop={stop}
        onClear={clear}
        onError={setError}
        attach={attach}
      >
        {voice && (
          <label class="check">
            <input type="checkbox" checked={speaks} onChange={(event) => setSpeaks(event.currentTarget.checked)} />
            {t.speakAnswers}
          </label>
        )}
      </Composer>
    </section>
  );
}
