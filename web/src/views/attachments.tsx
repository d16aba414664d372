// What is attached, shown as it is: pictures, and players for sounds and films.

import type { Attached } from "../files.ts";
import { useTexts } from "../texts/index.ts";

interface Props {
  files: Attached[];
  /** Absent = they stay. */
  onRemove?: (file: Attached) => void;
}

export function Attachments({ files, onRemove }: Props) {
  const t = useTexts();
  if (files.length === 0) return null;
  return (
    <ul class="attachments" aria-label={t.attached}>
      {files.map((file) => (
        <li key={file.id}>
          {file.kind === "image" && <img src={file.url} alt={file.name} />}
          {file.kind === "audio" && <audio src={file.url} controls aria-label={file.name} />}
          {file.kind === "video" && <video src={file.url} controls playsInline aria-label={file.name} />}
          <span class="name">{file.name}</span>
          {onRemove && (
            <button type="button" aria-label={t.remove(file.name)} onClick={() => onRemove(file)}>×</button>
          )}
        </li>
      ))}
    </ul>
  );
}
