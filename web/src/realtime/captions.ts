// What is said in a call, as it is heard.

export interface Caption {
  id: string;
  role: "user" | "assistant";
  /** All of it, as far as it is known. */
  text: string;
  /** Samples of its speech that came, and whether that is all. */
  samples: number;
  isWhole: boolean;
  /** Samples that were played. */
  played: number;
  isInterrupted: boolean;
  /** Of the model: its speech followed its text no more, and was ended. */
  isCutShort: boolean;
  /** Of the user: it is still spoken. */
  isOpen: boolean;
}

/** Characters a second before more is known: quick speech, so that a caption is never behind its sound. */
const LATIN_RATE = 18;
const CJK_RATE = 6;
const CJK = /[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]/g;

/**
 * Returns the part of an answer's text that was heard by now. The server sends text before its speech, and tells no times:
 * once all of the speech is there it is the share that was played, and until then as much as is said in that time.
 */
export function heardText(caption: Caption, sampleRate: number): string {
  const { text, samples, played, isWhole } = caption;
  if (caption.role === "user") return text;
  if (isWhole && played >= samples) return text;
  if (isWhole) return cut(text, (text.length * played) / samples);
  const cjk = (text.match(CJK)?.length ?? 0) / Math.max(text.length, 1);
  return cut(text, (played / sampleRate) * (LATIN_RATE + (CJK_RATE - LATIN_RATE) * cjk));
}

/** Cuts behind a word. Of writing without spaces, behind a character. */
function cut(text: string, length: number): string {
  if (length >= text.length) return text;
  const end = Math.floor(length);
  const head = text.slice(0, end);
  if (/\s/.test(text[end] ?? "")) return head;
  const last = /[\s\S]*(\s|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u3000-\u303f\uff00-\uffef])/.exec(head);
  return last ? last[0].trimEnd() : "";
}

export class Captions {
  list: Caption[] = [];

  /** Returns the caption, which is added if there is none. */
  of(id: string, role: Caption["role"]): Caption {
    let caption = this.list.find((each) => each.id === id);
    if (!caption) {
      caption = {
        id, role, text: "", samples: 0, isWhole: false, played: 0, isInterrupted: false, isCutShort: false,
        isOpen: role === "user",
      };
      this.list = [...this.list, caption];
    }
    return caption;
  }

  /** Ends what the user was saying: no more of it is heard. */
  close(): void {
    for (const caption of this.list) caption.isOpen = false;
  }

  /** Keeps of an answer's text what was heard: nothing more of it comes. */
  interrupt(caption: Caption, sampleRate: number): void {
    caption.text = heardText(caption, sampleRate);
    caption.samples = caption.played;
    caption.isWhole = caption.isInterrupted = true;
  }
}
