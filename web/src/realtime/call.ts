// A voice call: microphone, session and speech, and what the page shows of them. It outlives its connection.

import type { Client } from "../api/client.ts";
import { ApiError } from "../api/errors.ts";
import type { Capture } from "../audio/capture.ts";
import { base64OfPcm, pcmOfBase64, SAMPLE_RATE } from "../audio/pcm.ts";
import type { FromPlayback, Playback } from "../audio/playback.ts";
import type { Camera } from "./camera.ts";
import { Captions, type Caption } from "./captions.ts";
import {
  FRAME, INTERRUPTION, USER_CAPTIONS, type AnswerEvent, type Item, type ResponseObject, type ServerEvent,
} from "./events.ts";
import { Heard } from "./heard.ts";
import { itemsOf } from "./memory.ts";
import { RealtimeSocket } from "./socket.ts";

export type Phase = "idle" | "connecting" | "listening" | "hearing" | "thinking" | "speaking" | "reconnecting";

export interface CallOptions {
  client: Client;
  model: string;
  voice: string;
  /** The user says when a turn begins and ends; else the server hears it. */
  pushToTalk: boolean;
}

/** What ended a call that the user did not end: an error, the server's reason, or a microphone that is gone. */
export type Ending = { error: unknown } | { reason: string } | { microphone: "lost" };

/** What a session to go on with is refused with that is not there any more. A browser tells no more than that. */
const MAY_BE_GONE = [400, 404, 426];
const RETRIES_MS = [0, 500, 1000, 2000, 4000, 8000];
/** Ends that a new connection does not mend: the server's own decision about this user. */
const isFinal = (code: number, reason: string) => code === 1000 || code === 1008 || reason === "idle_timeout";
/** What is let go of before so much was heard was no turn: it stays open, until the next press. */
const SHORTEST_HOLD_MS = 200;
const FRAME_EVERY_MS = 2000;
const FRAMES_A_TURN = 4;

export class Call {
  phase: Phase = "idle";
  readonly captions = new Captions();
  /** From the end of the user's words to the first sound, of each answer. */
  latencies_ms: number[] = [];
  hasUserCaptions = true;
  takesImages = true;
  /** The last error that did not end the call. */
  error = "";
  camera: Camera | undefined;
  onChange: () => void = () => undefined;
  onEnd: (ending: Ending) => void = () => undefined;
  readonly #options: CallOptions;
  readonly #capture: Capture;
  readonly #playback: Playback;
  readonly #heard = new Heard();
  readonly #sounds = new Map<string, Int16Array>();
  readonly #starts_ms = new Map<string, number>();
  readonly #ending = new AbortController();
  #socket: RealtimeSocket | undefined;
  /** By the clock, until an answer to it is heard. */
  #turnEndedAt: number | undefined;
  #hasResponse = false;
  #frames: { timer: ReturnType<typeof setInterval>; sent: number } | undefined;
  /** The session, where the server keeps it: a new connection goes on with it. */
  #keptId: string | undefined;
  /** Push to talk: where the turn under way began, and whether it ends with the chunk that is being recorded. */
  #talk: { fromMs: number; ends: boolean } | undefined;
  /** Turns that were sent and have no item yet. */
  #committed: { fromMs: number; toMs: number }[] = [];

  constructor(options: CallOptions, capture: Capture, playback: Playback) {
    this.#options = options;
    this.#capture = capture;
    this.#playback = playback;
    capture.onChunk = (pcm) => this.#send(pcm);
    capture.onLost = () => this.#endAs({ microphone: "lost" });
    playback.onEvent = (event) => this.#onPlayback(event);
  }

  /** Throws ApiError. */
  async start(): Promise<void> {
    this.#show("connecting");
    await this.#connect();
  }

  end(): void {
    this.#ending.abort();
    this.#stopFrames();
    this.#socket?.close();
    this.#capture.close();
    this.#playback.close();
    this.camera?.close();
    this.camera = undefined;
    this.#show("idle");
  }

  /** Cuts the answer short, as speech does. */
  interrupt(): void {
    this.#cutShort();
    this.#show("listening");
  }

  get pushToTalk(): boolean {
    return this.#options.pushToTalk;
  }

  set pushToTalk(on: boolean) {
    this.#options.pushToTalk = on;
    this.#talk = undefined;
    this.#stopFrames();
    this.#socket?.send({ type: "input_audio_buffer.clear" });
    const audio = { input: { turn_detection: this.#turnDetection } };
    this.#socket?.send({ type: "session.update", session: { type: "realtime", audio } });
    if (this.phase === "hearing") this.#show("listening");
    else this.onChange();
  }

  get isConnected(): boolean {
    return this.#socket !== undefined;
  }

  /** Push to talk: whether a turn is under way. */
  get isTalking(): boolean {
    return this.#talk !== undefined && !this.#talk.ends;
  }

  /** Push to talk: begins a turn, or ends the one that a short press left open. */
  press(): void {
    if (this.isTalking) return this.#endTalk();
    if (!this.#socket || this.#talk || !this.pushToTalk) return;
    this.#cutShort();
    this.#talk = { fromMs: this.#heard.ms, ends: false };
    this.#startFrames();
    this.#show("hearing");
  }

  /** Push to talk: ends the turn, unless the press was too short to say anything. */
  letGo(): void {
    if (this.#talk && this.#heard.ms - this.#talk.fromMs >= SHORTEST_HOLD_MS) this.#endTalk();
  }

  #endTalk(): void {
    if (this.#talk) this.#talk.ends = true; // with the next chunk, which has the last words
    this.onChange();
  }

  #commit({ fromMs }: { fromMs: number }): void {
    this.#talk = undefined;
    this.#stopFrames();
    if (this.#heard.ms - fromMs < SHORTEST_HOLD_MS) {
      this.#socket?.send({ type: "input_audio_buffer.clear" });
      return this.#show("listening");
    }
    this.#committed.push({ fromMs, toMs: this.#heard.ms });
    this.#socket?.send({ type: "input_audio_buffer.commit" });
    this.#socket?.send({ type: "response.create" });
    this.#show("thinking");
  }

  get #turnDetection(): { type: "server_vad" } | null {
    return this.pushToTalk ? null : { type: "server_vad" };
  }

  #cutShort(): void {
    if (this.#hasResponse) this.#socket?.send({ type: "response.cancel", event_id: INTERRUPTION });
    this.#silence();
  }

  /** Goes on with the session that the server keeps; where it does not, tells another one what was said. */
  async #connect(cut?: Caption): Promise<void> {
    const { model, voice } = this.#options;
    const socket = await this.#open();
    const goesOn = this.#keptId !== undefined;
    this.#socket = socket;
    this.#heard.restart();
    this.#hasResponse = false;
    this.#committed = [];
    socket.onEvent = (event) => this.#onEvent(event);
    socket.onClose = (code, reason) => void this.#onClose(code, reason);
    const format = { type: "audio/pcm", rate: SAMPLE_RATE };
    const input = { format, turn_detection: this.#turnDetection };
    const audio = { input, output: { format, ...(voice ? { voice } : {}) } };
    socket.send({ type: "session.update", session: { type: "realtime", output_modalities: ["audio"], audio } });
    if (this.hasUserCaptions) {
      const captions = { type: "realtime", audio: { input: { transcription: { model } } } };
      socket.send({ type: "session.update", event_id: USER_CAPTIONS, session: captions });
    }
    if (goesOn && cut) this.#truncate(cut);
    const items = goesOn ? [] : itemsOf(this.captions.list, this.#sounds);
    for (const item of items) socket.send({ type: "conversation.item.create", item });
    this.#show("listening");
  }

  /** Throws ApiError. */
  async #open(): Promise<RealtimeSocket> {
    const { client, model } = this.#options;
    try {
      return await RealtimeSocket.open(client, model, this.#ending.signal, this.#keptId);
    } catch (error) {
      if (this.#keptId === undefined || !(error instanceof ApiError) || !MAY_BE_GONE.includes(error.status)) throw error;
    }
    this.#keptId = undefined;
    return RealtimeSocket.open(client, model, this.#ending.signal);
  }

  async #onClose(code: number, reason: string): Promise<void> {
    this.#stopFrames();
    const cut = this.#playing();
    const isOwed = cut !== undefined || this.phase === "thinking";
    this.#silence();
    this.captions.close();
    this.#socket = this.#talk = undefined;
    if (isFinal(code, reason)) return this.#endAs({ reason: reason || String(code) });
    this.error = ""; // of the connection that is gone
    this.#show("reconnecting");
    let last: unknown;
    for (const delay_ms of RETRIES_MS) {
      await new Promise((resolve) => setTimeout(resolve, delay_ms));
      if (this.#ending.signal.aborted) return;
      try {
        await this.#connect(cut);
        if (isOwed) this.#goOn();
        return;
      } catch (error) {
        if (this.#ending.signal.aborted) return;
        last = error;
        if (error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 429) break;
      }
    }
    this.#endAs({ error: last });
  }

  /** Has the answer go on that the loss of the connection has cut. */
  #goOn(): void {
    this.#socket?.send({ type: "response.create" });
    this.#show("thinking");
  }

  #endAs(ending: Ending): void {
    this.end();
    this.onEnd(ending);
  }

  #send(pcm: Int16Array<ArrayBuffer>): void {
    if (!this.#socket || (this.pushToTalk && !this.#talk)) return;
    this.#heard.add(pcm, performance.now());
    this.#socket.send({ type: "input_audio_buffer.append", audio: base64OfPcm(pcm) });
    if (this.#talk?.ends) this.#commit(this.#talk);
  }

  #onEvent(event: ServerEvent): void {
    switch (event.type) {
      case "session.created":
        this.#keptId = event.session.antiphon_kept ? event.session.id : undefined;
        return;
      case "input_audio_buffer.speech_started":
        this.#silence();
        this.#starts_ms.set(event.item_id, event.audio_start_ms);
        this.captions.of(event.item_id, "user");
        this.#startFrames();
        return this.#show("hearing");
      case "input_audio_buffer.speech_stopped":
        this.#stopFrames();
        this.#keepTurn(event.item_id, this.#starts_ms.get(event.item_id) ?? 0, event.audio_end_ms);
        return this.#show("thinking");
      case "input_audio_buffer.committed": {
        const turn = this.#committed.shift();
        if (turn) this.#keepTurn(event.item_id, turn.fromMs, turn.toMs);
        return this.onChange();
      }
      case "conversation.item.input_audio_transcription.delta":
        this.captions.of(event.item_id, "user").text += event.delta;
        return this.onChange();
      case "conversation.item.input_audio_transcription.completed":
        this.captions.of(event.item_id, "user").text = event.transcript;
        return this.onChange();
      case "response.created":
        this.#hasResponse = true;
        return;
      case "response.output_audio_transcript.delta":
      case "response.output_audio.delta":
      case "response.output_audio.done":
        return this.#onAnswer(event);
      case "response.done":
        return this.#onResponseDone(event.response);
      case "error":
        return this.#onError(event.error);
    }
  }

  #keepTurn(item_id: string, start_ms: number, end_ms: number): void {
    this.#sounds.set(item_id, this.#heard.slice(start_ms, end_ms));
    this.captions.of(item_id, "user").isOpen = false;
    this.#turnEndedAt = this.#heard.clockAt(this.#heard.endOfWords(start_ms, end_ms));
  }

  #onAnswer(event: AnswerEvent): void {
    const caption = this.captions.of(event.item_id, "assistant");
    if (caption.isInterrupted) return; // it was on its way when the user spoke
    if (event.type === "response.output_audio_transcript.delta") {
      caption.text += event.delta;
    } else if (event.type === "response.output_audio.delta") {
      const pcm = pcmOfBase64(event.delta);
      caption.samples += pcm.length;
      this.#playback.play(event.item_id, pcm);
    } else {
      caption.isWhole = true;
    }
    this.onChange();
  }

  #onResponseDone({ status, status_details, output }: ResponseObject): void {
    this.#hasResponse = false;
    if (status_details?.antiphon_derailment) {
      const spoken = this.captions.list.find(({ id }) => output?.some((item) => item.id === id));
      if (spoken) spoken.isCutShort = true;
    }
    if (status === "failed") this.error = status_details?.error?.message ?? status;
    if (status !== "cancelled" && this.phase === "thinking" && !this.#isPlaying()) this.#show("listening");
    else this.onChange();
  }

  #onError({ message, event_id }: Extract<ServerEvent, { type: "error" }>["error"]): void {
    if (event_id === USER_CAPTIONS) this.hasUserCaptions = false;
    else if (event_id === FRAME) this.takesImages = false;
    else if (event_id !== INTERRUPTION) this.error = message;
    this.onChange();
  }

  #onPlayback({ type, item, samples }: FromPlayback): void {
    const caption = this.captions.list.find(({ id }) => id === item);
    if (!caption || caption.isInterrupted) return;
    caption.played = samples;
    if (type === "started" && this.#turnEndedAt !== undefined) {
      this.latencies_ms = [...this.latencies_ms, Math.round(performance.now() - this.#turnEndedAt)];
      this.#turnEndedAt = undefined;
    }
    if (type === "started") this.error = "";
    if (type === "dry" && this.phase === "speaking" && caption.isWhole) this.#show("listening");
    else if (type !== "dry" && this.phase !== "hearing") this.#show("speaking");
    else this.onChange();
  }

  /** Falls silent, and tells the server how much of the answer was heard: the model remembers as much. */
  #silence(): void {
    const caption = this.#playing();
    this.#playback.clear();
    if (!caption) return;
    this.captions.interrupt(caption, SAMPLE_RATE);
    this.#truncate(caption);
  }

  #truncate({ id, played }: Caption): void {
    const audio_end_ms = Math.floor((played * 1000) / SAMPLE_RATE);
    const place = { item_id: id, content_index: 0, audio_end_ms } as const;
    this.#socket?.send({ type: "conversation.item.truncate", event_id: INTERRUPTION, ...place });
  }

  #playing(): Caption | undefined {
    const last = this.captions.list.findLast(({ role }) => role === "assistant");
    return last && !last.isInterrupted && (last.played < last.samples || !last.isWhole) ? last : undefined;
  }

  #isPlaying(): boolean {
    return this.#playing() !== undefined;
  }

  #startFrames(): void {
    this.#stopFrames();
    if (!this.camera) return;
    const frames = { timer: setInterval(() => this.#sendFrame(), FRAME_EVERY_MS), sent: 0 };
    this.#frames = frames;
    this.#sendFrame();
  }

  #sendFrame(): void {
    const frames = this.#frames;
    const image_url = this.camera?.picture();
    if (!frames || !image_url || !this.takesImages || frames.sent >= FRAMES_A_TURN) return;
    frames.sent += 1;
    const item: Item = { type: "message", role: "user", content: [{ type: "input_image", image_url }] };
    this.#socket?.send({ type: "conversation.item.create", event_id: FRAME, item });
  }

  #stopFrames(): void {
    clearInterval(this.#frames?.timer);
    this.#frames = undefined;
  }

  #show(phase: Phase): void {
    this.phase = phase;
    this.onChange();
  }
}
