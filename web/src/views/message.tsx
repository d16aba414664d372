import type { Turn } from "../conversation.ts";
import { useTexts } from "../texts/index.ts";
import { Attachments } from "./attachments.tsx";

export function MessageView({ turn }: { turn: Turn }) {
  const t = useTexts();
  return (
    <article class={`message ${turn.role}`}>
      <h2>{turn.role === "user" ? t.you : t.modelName}</h2>
      <Attachments files={turn.files} />
      {turn.thought && (
        <details>
          <summary>{t.thoughts}</summary>
          <p class="text">{turn.thought}</p>
        </details>
      )}
      {turn.text && <p class="text">{turn.text}</p>}
      {turn.isCut && <p class="hint">{t.cut}</p>}
      {turn.speechUrl && <audio src={turn.speechUrl} controls aria-label={t.spokenAnswer} />}
    </article>
  );
}
