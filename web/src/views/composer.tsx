// Where a message is written: text, files, a recording.

import type { ComponentChildren } from "preact";
import { useRef, useState } from "preact/hooks";
import type { Attached } from "../files.ts";
import { useTexts } from "../texts/index.ts";
import { Attachments } from "./attachments.tsx";
import { RecordButton } from "./record_button.tsx";

interface Props {
  isRunning: boolean;
  onSend: (text: string, files: Attached[]) => void;
  onStop: () => void;
  onClear: () => void;
  onError: (text: string) => void;
  attach: (file: Blob, name: string) => Attached | undefined;
  children: ComponentChildren;
}

export function Composer({ isRunning, onSend, onStop, onClear, onError, attach, children }: Props) {
  const t = useTexts();
  const [text, setText] = useState("");
  const [files, setFiles] = useState<Attached[]>([]);
  const picker = useRef<HTMLInputElement>(null);

  function add(given: Iterable<{ file: Blob; name: string }>) {
    for (const { file, name } of given) {
      const attached = attach(file, name);
      if (attached) setFiles((before) => [...before, attached]);
      else onError(t.wrongType(name));
    }
  }
  const addFiles = (given: FileList | null | undefined) =>
    add([...(given ?? [])].map((file) => ({ file, name: file.name })));
  function send() {
    if (isRunning || (!text.trim() && files.length === 0)) return;
    onSend(text.trim(), files);
    setText("");
    setFiles([]);
  }
  function remove(file: Attached) {
    URL.revokeObjectURL(file.url);
    setFiles((before) => before.filter((each) => each !== file));
  }
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
      onDragOver={(event) => event.preventDefault()}
      onDrop={(event) => {
        event.preventDefault();
        addFiles(event.dataTransfer?.files);
      }}
    >
      <Attachments files={files} onRemove={remove} />
      <label>
        <span>{t.message}</span>
        <textarea
          rows={2}
          value={text}
          aria-describedby="message-hint"
          onInput={(event) => setText(event.currentTarget.value)}
          onPaste={(event) => addFiles(event.clipboardData?.files)}
          onKeyDown={(event) => {
            // While an input method composes, Enter chooses what it offers.
            if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
              event.preventDefault();
              send();
            }
          }}
        />
      </label>
      <p id="message-hint" class="hint">{t.messageHint}</p>
      <div class="actions">
        {isRunning ? (
          <button type="button" class="primary" onClick={onStop}>{t.stop}</button>
        ) : (
          <button type="submit" class="primary">{t.send}</button>
        )}
        <button type="button" onClick={() => picker.current?.click()}>{t.attach}</button>
        <input
          ref={picker}
          type="file"
          multiple
          hidden
          accept="image/*,audio/*,video/*"
          onChange={(event) => {
            addFiles(event.currentTarget.files);
            event.currentTarget.value = "";
          }}
        />
        <RecordButton onRecorded={(file, name) => add([{ file, name }])} onError={onError} />
        <button type="button" onClick={onClear}>{t.clear}</button>
        {children}
      </div>
    </form>
  );
}
