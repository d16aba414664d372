// The language of the page.

import { createContext } from "preact";
import { useContext } from "preact/hooks";
import { ApiError } from "../api/errors.ts";
import { en, type Texts } from "./en.ts";
import { zh } from "./zh.ts";

export type Language = "en" | "zh";
export type { Texts };

export const LANGUAGES: Record<Language, { name: string; texts: Texts }> = {
  en: { name: "English", texts: en },
  zh: { name: "中文", texts: zh },
};

export const TextsContext = createContext<Texts>(en);
export const useTexts = (): Texts => useContext(TextsContext);

export function preferredLanguage(wanted: readonly string[]): Language {
  const known = wanted.map((tag) => tag.slice(0, 2).toLowerCase()).find((tag) => tag in LANGUAGES);
  return (known as Language | undefined) ?? "en";
}

/** Returns what to tell the user of an error: what the server says of it, behind what the page knows. */
export function errorText(error: unknown, t: Texts): string {
  if (!(error instanceof ApiError)) return String(error instanceof Error ? error.message || error.name : error);
  const lead = {
    401: t.errorKey, 413: t.errorTooLarge, 426: t.errorUpgrade, 429: t.errorBusy, 503: t.errorBusy,
  }[error.status];
  return error.status === 0 ? t.errorConnection : [lead, error.message].filter(Boolean).join(" ");
}

export function microphoneError(error: unknown, t: Texts): string {
  return error instanceof DOMException && error.name === "SecurityError" ? t.noSecureContext : t.noMicrophone;
}
