// What the user has set, and where it is kept.

import { preferredLanguage, LANGUAGES, type Language } from "./texts/index.ts";

export type Theme = "auto" | "light" | "dark";

export interface Settings {
  key: string;
  /** The key is in sessionStorage, and nowhere else, as long as this says so. */
  keepsKey: boolean;
  language: Language;
  theme: Theme;
  model: string;
  voice: string;
}

const KEY = "antiphon.key";
const KEPT = ["language", "theme", "model", "voice"] as const;

export function readSettings(): Settings {
  const kept = Object.fromEntries(KEPT.map((name) => [name, read("localStorage", `antiphon.${name}`)]));
  const key = read("sessionStorage", KEY);
  return {
    key,
    keepsKey: key !== "",
    language: kept["language"] && kept["language"] in LANGUAGES ? (kept["language"] as Language) : preferredLanguage(navigator.languages),
    theme: kept["theme"] === "light" || kept["theme"] === "dark" ? kept["theme"] : "auto",
    model: kept["model"] ?? "",
    voice: kept["voice"] ?? "",
  };
}

export function keepSettings(settings: Settings): void {
  for (const name of KEPT) write("localStorage", `antiphon.${name}`, settings[name]);
  write("sessionStorage", KEY, settings.keepsKey ? settings.key : "");
}

function read(storage: "localStorage" | "sessionStorage", name: string): string {
  try {
    return window[storage].getItem(name) ?? "";
  } catch {
    return ""; // the browser allows no storage
  }
}

function write(storage: "localStorage" | "sessionStorage", name: string, value: string): void {
  try {
    if (value) window[storage].setItem(name, value);
    else window[storage].removeItem(name);
  } catch {
    // the same: it holds until the page is reloaded
  }
}
