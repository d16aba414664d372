import type { ComponentChildren } from "preact";

export function Alert({ text, children }: { text: string; children?: ComponentChildren }) {
  return (
    <div class="alert" role="alert">
      <p>{text}</p>
      {children}
    </div>
  );
}
