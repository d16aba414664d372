// Push to talk: a button to hold, and the space bar.

import { useEffect, useRef } from "preact/hooks";
import type { Call } from "../realtime/call.ts";
import { useTexts } from "../texts/index.ts";

/** What the space bar acts on by itself. */
const OTHER_CONTROLS = "button, input, select, textarea, summary, a, audio, video, [role=tab]";

export function TalkButton({ call }: { call: Call }) {
  const t = useTexts();
  const button = useRef<HTMLButtonElement>(null);
  /** A pointer was pressed, and its click is still to come. */
  const isPointer = useRef(false);
  useEffect(() => {
    let key = "";
    const isOurs = ({ key, target, ctrlKey, altKey, metaKey }: KeyboardEvent): boolean => {
      if (ctrlKey || altKey || metaKey || !(target instanceof Element)) return false;
      if (target === button.current) return key === " " || key === "Enter";
      return key === " " && !target.closest(OTHER_CONTROLS);
    };
    const down = (event: KeyboardEvent) => {
      if (!isOurs(event)) return;
      event.preventDefault(); // no scrolling, and no click
      if (event.repeat || key) return;
      key = event.key;
      call.press();
    };
    const up = (event: KeyboardEvent) => {
      if (!key || event.key !== key) return;
      event.preventDefault();
      key = "";
      call.letGo();
    };
    // Another window takes the key's or the pointer's end.
    const leave = () => {
      key = "";
      call.letGo();
    };
    addEventListener("keydown", down);
    addEventListener("keyup", up);
    addEventListener("blur", leave);
    return () => {
      removeEventListener("keydown", down);
      removeEventListener("keyup", up);
      removeEventListener("blur", leave);
    };
  }, [call]);

  function hold(event: PointerEvent) {
    if (event.button !== 0) return;
    isPointer.current = true;
    button.current?.setPointerCapture(event.pointerId);
    call.press();
  }
  function letGo() {
    if (!isPointer.current) return;
    call.letGo();
    setTimeout(() => (isPointer.current = false)); // behind its click
  }
  // A screen reader clicks, and holds nothing: one click begins, the next one ends.
  function click() {
    if (!isPointer.current) call.press();
  }
  return (
    <button
      type="button" class="talk" ref={button} aria-pressed={call.isTalking} aria-disabled={!call.isConnected}
      onPointerDown={hold} onPointerUp={letGo} onPointerCancel={letGo} onClick={click}
      onContextMenu={(event) => event.preventDefault()}
    >
      {t.talk}
    </button>
  );
}
