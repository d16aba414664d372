// A chat: what was said so far, and the answer that is coming.

import { chat, type Message } from "./api/chat.ts";
import type { Client } from "./api/client.ts";
import { wavOf } from "./audio/pcm.ts";
import type { Speaker } from "./audio/speaker.ts";
import { partOf, type Attached } from "./files.ts";

export interface Turn {
  id: number;
  role: "user" | "assistant";
  text: string;
  thought: string;
  files: Attached[];
  /** A WAV file of the answer's speech. */
  speechUrl: string;
  isCut: boolean;
}

export interface Question {
  model: string;
  text: string;
  files: Attached[];
  voice: string | undefined;
  speaker: Speaker;
}

export class Conversation {
  turns: Turn[] = [];
  onChange: () => void = () => undefined;
  #messages: Message[] = [];
  #lastId = 0;

  /** Asks and adds the answer as it comes. Throws ApiError. What came before an error or an abort stays, and is sent
   * as history from then on; a question without any answer does not. */
  async ask(client: Client, question: Question, signal: AbortSignal): Promise<void> {
    this.turns = [...this.turns, this.#turn("user", question.text, question.files)];
    const answer = this.#turn("assistant");
    this.turns = [...this.turns, answer];
    this.onChange();
    const files = await Promise.all(question.files.map(partOf));
    const text = question.text ? [{ type: "text" as const, text: question.text }] : [];
    const asked: Message = { role: "user", content: [...files, ...text] };
    const messages = [...this.#messages, asked];
    const heard: Int16Array[] = [];
    question.speaker.stop();
    try {
      const options = { model: question.model, messages, ...(question.voice ? { voice: question.voice } : {}) };
      for await (const event of chat(client, options, signal)) {
        if (event.type === "text") answer.text += event.text;
        else if (event.type === "thought") answer.thought += event.text;
        else if (event.type === "end") answer.isCut = event.reason === "length";
        else if (heard.push(event.pcm)) question.speaker.play(String(answer.id), event.pcm);
        this.onChange();
      }
    } finally {
      if (this.turns.includes(answer)) {
        if (heard.length > 0) answer.speechUrl = URL.createObjectURL(wavOf(heard));
        if (answer.text) this.#messages = [...messages, { role: "assistant", content: answer.text }];
        else this.turns = this.turns.filter((turn) => turn !== answer);
        this.onChange();
      }
    }
  }

  clear(): void {
    for (const { files, speechUrl } of this.turns) {
      [speechUrl, ...files.map(({ url }) => url)].filter(Boolean).forEach((url) => URL.revokeObjectURL(url));
    }
    this.turns = [];
    this.#messages = [];
    this.onChange();
  }

  #turn(role: Turn["role"], text = "", files: Attached[] = []): Turn {
    return { id: ++this.#lastId, role, text, thought: "", files, speechUrl: "", isCut: false };
  }
}
