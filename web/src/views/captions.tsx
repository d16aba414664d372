import { useEffect, useRef } from "preact/hooks";
import { SAMPLE_RATE } from "../audio/pcm.ts";
import { heardText, type Caption } from "../realtime/captions.ts";
import { useTexts } from "../texts/index.ts";

export function CaptionsView({ captions }: { captions: Caption[] }) {
  const t = useTexts();
  const end = useRef<HTMLDivElement>(null);
  const last = captions.at(-1);
  useEffect(() => end.current?.scrollIntoView({ block: "nearest" }), [captions.length, last?.played]);
  // Live is off: a screen reader would speak over the call.
  return (
    <div class="messages captions" role="log" aria-live="off" aria-label={t.captions} tabIndex={0}>
      {captions.map((caption) => (
        <article key={caption.id} class={`message ${caption.role}`}>
          <h2>{caption.role === "user" ? t.you : t.modelName}</h2>
          <p class="text">
            {heardText(caption, SAMPLE_RATE) || (caption.role === "user" ? (caption.isOpen ? "…" : t.spoke) : "…")}
          </p>
          {caption.isInterrupted && <p class="hint">{t.interrupted}</p>}
          {caption.isCutShort && <p class="hint">{t.cutShort}</p>}
        </article>
      ))}
      <div ref={end} />
    </div>
  );
}
