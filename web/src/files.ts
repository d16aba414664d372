// Files that the user attaches, as parts of a message.

import type { Part } from "./api/chat.ts";
import { base64Of } from "./audio/pcm.ts";

export type Kind = "image" | "audio" | "video";

export interface Attached {
  id: number;
  name: string;
  kind: Kind;
  file: Blob;
  /** Shows it in the page. */
  url: string;
}

/** Of files that the system knows no type of. */
const ENDINGS: Record<string, Kind> = {
  aac: "audio", aiff: "audio", amr: "audio", caf: "audio", flac: "audio", m4a: "audio", mp3: "audio", oga: "audio",
  ogg: "audio", opus: "audio", wav: "audio", avi: "video", flv: "video", mkv: "video", mov: "video", mp4: "video",
  ts: "video", webm: "video", avif: "image", heic: "image", heif: "image", tif: "image", tiff: "image", webp: "image",
};

let lastId = 0;

/** Returns the file with its kind; undefined = it is none of the three. */
export function attach(file: Blob, name: string): Attached | undefined {
  const ending = name.split(".").at(-1)?.toLowerCase() ?? "";
  const kind = file.type ? file.type.split("/")[0] : ENDINGS[ending];
  if (kind !== "image" && kind !== "audio" && kind !== "video") return undefined;
  const typed = file.type ? file : new Blob([file], { type: `${kind}/${ending}` });
  return { id: ++lastId, name, kind, file: typed, url: URL.createObjectURL(typed) };
}

export async function partOf({ kind, file }: Attached): Promise<Part> {
  const data = base64Of(new Uint8Array(await file.arrayBuffer()));
  if (kind === "audio") {
    return { type: "input_audio", input_audio: { data, format: file.type.split("/")[1]?.split(";")[0] ?? "wav" } };
  }
  const url = `data:${file.type.split(";")[0]};base64,${data}`;
  return kind === "image" ? { type: "image_url", image_url: { url } } : { type: "video_url", video_url: { url } };
}
