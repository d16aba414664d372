// OpenAI's Realtime API (GA), as far as the page reads and sends it.

export type ServerEvent =
  | { type: "session.created"; session: { id: string; antiphon_kept?: boolean } }
  | { type: "session.updated" }
  | { type: "input_audio_buffer.speech_started"; item_id: string; audio_start_ms: number }
  | { type: "input_audio_buffer.speech_stopped"; item_id: string; audio_end_ms: number }
  | { type: "input_audio_buffer.committed"; item_id: string }
  | { type: "conversation.item.input_audio_transcription.delta"; item_id: string; delta: string }
  | { type: "conversation.item.input_audio_transcription.completed"; item_id: string; transcript: string }
  | { type: "response.created"; response: { id: string } }
  | AnswerEvent
  | { type: "response.done"; response: ResponseObject }
  | { type: "error"; error: { message: string; code: string | null; event_id: string | null } };

export type AnswerEvent =
  | { type: "response.output_audio_transcript.delta" | "response.output_audio.delta"; item_id: string; delta: string }
  | { type: "response.output_audio.done"; item_id: string };

export interface ResponseObject {
  id: string;
  status: "completed" | "cancelled" | "incomplete" | "failed" | "in_progress";
  status_details: {
    error?: { message: string; code: string } | null;
    /** Why the speech of an answer was ended: it followed its text no more. */
    antiphon_derailment?: string;
  } | null;
  output?: { id: string }[];
}

type Content =
  | { type: "input_text"; text: string }
  | { type: "input_audio"; audio: string }
  | { type: "input_image"; image_url: string }
  | { type: "output_text"; text: string };

export interface Item {
  type: "message";
  role: "user" | "assistant";
  content: Content[];
}

export type ClientEvent = { event_id?: string } & (
  | { type: "session.update"; session: Record<string, unknown> }
  | { type: "input_audio_buffer.append"; audio: string }
  | { type: "input_audio_buffer.commit" | "input_audio_buffer.clear" }
  | { type: "response.create" }
  | { type: "conversation.item.create"; item: Item }
  | { type: "conversation.item.truncate"; item_id: string; content_index: 0; audio_end_ms: number }
  | { type: "response.cancel" }
);

/** Ids of our own events whose refusal means that the server lacks something, and no more. */
export const USER_CAPTIONS = "user_captions";
export const FRAME = "frame";
/** An answer may have ended on its way here. */
export const INTERRUPTION = "interruption";
