// The microphone: permission, and the capture worklet.

import captureUrl from "./capture.worklet.ts?worker&url";

export class Capture {
  onChunk: (pcm: Int16Array<ArrayBuffer>) => void = () => undefined;
  /** The microphone gives nothing more: it was unplugged, or the user took back the permission. */
  onLost: () => void = () => undefined;
  readonly #stream: MediaStream;
  readonly #context: AudioContext;

  private constructor(stream: MediaStream, context: AudioContext, node: AudioWorkletNode) {
    this.#stream = stream;
    this.#context = context;
    node.port.onmessage = ({ data }: MessageEvent<Int16Array<ArrayBuffer>>) => this.onChunk(data);
    stream.getAudioTracks().forEach((track) => (track.onended = () => this.onLost()));
  }

  /** Asks the user for the microphone. Throws DOMException where there is none, or it was refused. */
  static async open(): Promise<Capture> {
    // A page that came without TLS from another machine has none of this.
    if (!navigator.mediaDevices) throw new DOMException("", "SecurityError");
    const audio = { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true };
    const stream = await navigator.mediaDevices.getUserMedia({ audio });
    // The device's own rate: Firefox connects no microphone to a context with another one.
    const context = new AudioContext();
    try {
      await context.audioWorklet.addModule(captureUrl);
      const node = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
      context.createMediaStreamSource(stream).connect(node);
      await context.resume();
      return new Capture(stream, context, node);
    } catch (error) {
      stream.getTracks().forEach((track) => track.stop());
      await context.close();
      throw error;
    }
  }

  set isMuted(muted: boolean) {
    // A muted track gives silence, which the server needs to hear that a turn is over.
    this.#stream.getAudioTracks().forEach((track) => (track.enabled = !muted));
  }

  close(): void {
    this.onChunk = this.onLost = () => undefined;
    this.#stream.getTracks().forEach((track) => track.stop());
    void this.#context.close();
  }
}
