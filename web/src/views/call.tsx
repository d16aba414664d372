// A voice call: start and end it, and see what is said and how long answers take.

import { useEffect, useRef, useState } from "preact/hooks";
import { isAbort } from "../api/errors.ts";
import { Capture } from "../audio/capture.ts";
import { SAMPLE_RATE } from "../audio/pcm.ts";
import { Playback } from "../audio/playback.ts";
import { Call, type Ending, type Phase } from "../realtime/call.ts";
import { Camera } from "../realtime/camera.ts";
import { errorText, microphoneError, useTexts, type Texts } from "../texts/index.ts";
import { Alert } from "./alert.tsx";
import { CaptionsView } from "./captions.tsx";
import type { Shown } from "./shown.ts";
import { TalkButton } from "./talk_button.tsx";

export function CallView({ client, model, voice }: Shown) {
  const t = useTexts();
  const [call, setCall] = useState<Call>();
  const [error, setError] = useState("");
  const [isMuted, setMuted] = useState(false);
  const [pushToTalk, setPushToTalk] = useState(false);
  const capture = useRef<Capture | undefined>(undefined);
  const [, redraw] = useState(0);
  const phase = call?.phase ?? "idle";
  const isOn = phase !== "idle";
  // A screen reader tells of the connection, and is silent in the conversation: it would speak over it.
  const isTold = ["idle", "connecting", "reconnecting"].includes(phase) || call?.captions.list.length === 0;
  useEffect(() => () => call?.end(), [call]);

  async function start() {
    setError("");
    setMuted(false);
    // Here, in the user's own act: browsers play nothing otherwise.
    const context = new AudioContext({ sampleRate: SAMPLE_RATE });
    void context.resume();
    try {
      capture.current = await Capture.open();
    } catch (failure) {
      void context.close();
      setError(microphoneError(failure, t));
      return;
    }
    let playback: Playback;
    try {
      playback = await Playback.open(context);
    } catch {
      capture.current.close();
      void context.close();
      setError(t.noPlayback);
      return;
    }
    const started = new Call({ client, model: model.id, voice, pushToTalk }, capture.current, playback);
    started.onChange = () => {
      if (started.phase === "idle" && context.state !== "closed") void context.close();
      redraw((n) => n + 1);
    };
    started.onEnd = (ending) => setError(endingText(ending, t));
    setCall(started);
    try {
      await started.start();
    } catch (failure) {
      started.end();
      if (!isAbort(failure)) setError(errorText(failure, t));
    }
  }
  function mute(muted: boolean) {
    if (capture.current) capture.current.isMuted = muted;
    setMuted(muted);
  }
  function choosePushToTalk(on: boolean) {
    mute(false); // there is no button for it then
    setPushToTalk(on);
    if (call && isOn) call.pushToTalk = on;
  }
  async function toggleCamera() {
    if (!call) return;
    if (call.camera) {
      call.camera.close();
      call.camera = undefined;
    } else {
      try {
        call.camera = await Camera.open();
      } catch {
        setError(t.noCamera);
      }
    }
    redraw((n) => n + 1);
  }
  if (model.voices.length === 0) return <p>{t.noVoice}</p>;
  return (
    <section class="call" aria-label={t.call}>
      <p class="hint">{pushToTalk ? t.talkHint : t.callHint}</p>
      <label class="check">
        <input type="checkbox" checked={pushToTalk} onChange={(event) => choosePushToTalk(event.currentTarget.checked)} />
        {t.pushToTalk}
      </label>
      <p class={`state ${phase}`} role="status" aria-live={isTold ? "polite" : "off"}>{phaseText(phase, pushToTalk, t)}</p>
      {call && isOn && pushToTalk && <TalkButton call={call} />}
      <div class="actions">
        {isOn ? (
          <>
            <button type="button" class="primary" onClick={() => call?.end()}>{t.endCall}</button>
            <button type="button" disabled={phase !== "speaking"} onClick={() => call?.interrupt()}>{t.interrupt}</button>
            {!pushToTalk && (
              <button type="button" aria-pressed={isMuted} onClick={() => mute(!isMuted)}>{isMuted ? t.unmute : t.mute}</button>
            )}
            <button type="button" aria-pressed={call?.camera !== undefined} onClick={() => void toggleCamera()}>{t.camera}</button>
          </>
        ) : (
          <button type="button" class="primary" onClick={() => void start()}>{t.startCall}</button>
        )}
      </div>
      {error && <Alert text={error} />}
      {call?.error && <Alert text={call.error} />}
      {call?.camera && <Preview stream={call.camera.stream} />}
      {call && !call.takesImages && <p class="hint" role="status">{t.noImages}</p>}
      {call && <Latency values={call.latencies_ms} />}
      {call && !call.hasUserCaptions && <p class="hint">{t.noUserCaptions}</p>}
      {call && <CaptionsView captions={call.captions.list} />}
    </section>
  );
}

function Latency({ values }: { values: number[] }) {
  const t = useTexts();
  const last = values.at(-1);
  const median = values.toSorted((a, b) => a - b)[values.length >> 1];
  return (
    <p class="hint latency">
      {t.latency}: <strong>{last === undefined ? t.latencyNone : t.latencyText(last, median ?? last)}</strong>
    </p>
  );
}

function Preview({ stream }: { stream: MediaStream }) {
  const t = useTexts();
  const video = useRef<HTMLVideoElement>(null);
  useEffect(() => {
    if (video.current) video.current.srcObject = stream;
  }, [stream]);
  return <video class="preview" ref={video} autoPlay muted playsInline aria-label={t.cameraPreview} />;
}

function phaseText(phase: Phase, pushToTalk: boolean, t: Texts): string {
  return {
    idle: t.callIdle, connecting: t.callConnecting, hearing: t.callHearing,
    listening: pushToTalk ? t.callReady : t.callListening,
    thinking: t.callThinking, speaking: t.callSpeaking, reconnecting: t.callReconnecting,
  }[phase];
}

function endingText(ending: Ending, t: Texts): string {
  if ("microphone" in ending) return t.microphoneLost;
  return "error" in ending ? `${t.callLost} ${errorText(ending.error, t)}` : t.callEnded(ending.reason);
}
