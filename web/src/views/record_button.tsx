// Records the microphone into a WAV file.

import { useEffect, useRef, useState } from "preact/hooks";
import { Capture } from "../audio/capture.ts";
import { SAMPLE_RATE, wavOf } from "../audio/pcm.ts";
import { microphoneError, useTexts } from "../texts/index.ts";

interface Props {
  onRecorded: (file: Blob, name: string) => void;
  onError: (text: string) => void;
}

export function RecordButton({ onRecorded, onError }: Props) {
  const t = useTexts();
  const [capture, setCapture] = useState<Capture>();
  const chunks = useRef<Int16Array[]>([]);
  const count = useRef(0);
  const [length_s, setLength] = useState(0);
  useEffect(() => () => capture?.close(), [capture]);

  async function toggle() {
    if (capture) {
      setCapture(undefined);
      if (chunks.current.length > 0) onRecorded(wavOf(chunks.current), `${t.recordingName} ${++count.current}.wav`);
      return;
    }
    try {
      const opened = await Capture.open();
      chunks.current = [];
      setLength(0);
      opened.onChunk = (chunk) => {
        chunks.current.push(chunk);
        setLength(Math.floor((chunks.current.length * chunk.length) / SAMPLE_RATE));
      };
      setCapture(opened);
    } catch (error) {
      onError(microphoneError(error, t));
    }
  }
  return (
    <>
      <button type="button" aria-pressed={capture !== undefined} onClick={() => void toggle()}>
        {capture ? t.recording : t.record}
      </button>
      {capture && <span class="recorded" aria-hidden="true">{length_s} s</span>}
    </>
  );
}
