// The camera: a preview, and pictures of it.

const LONGEST_SIDE = 640;
const QUALITY = 0.7;

export class Camera {
  readonly stream: MediaStream;
  readonly #video: HTMLVideoElement;

  private constructor(stream: MediaStream, video: HTMLVideoElement) {
    this.stream = stream;
    this.#video = video;
  }

  /** Throws DOMException where there is none, or it was refused. */
  static async open(): Promise<Camera> {
    const video = document.createElement("video");
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user", width: { ideal: 640 } } });
    video.muted = true;
    video.playsInline = true;
    video.srcObject = stream;
    await video.play();
    return new Camera(stream, video);
  }

  /** Returns what it shows now as a data: URL of a JPEG; "" = nothing yet. */
  picture(): string {
    const { videoWidth, videoHeight } = this.#video;
    if (!videoWidth) return "";
    const scale = Math.min(1, LONGEST_SIDE / Math.max(videoWidth, videoHeight));
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(videoWidth * scale);
    canvas.height = Math.round(videoHeight * scale);
    canvas.getContext("2d")?.drawImage(this.#video, 0, 0, canvas.width, canvas.height);
    return canvas.toDataURL("image/jpeg", QUALITY);
  }

  close(): void {
    this.stream.getTracks().forEach((track) => track.stop());
    this.#video.srcObject = null;
  }
}
