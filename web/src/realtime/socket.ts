// The connection of a call.

import { request, type Client } from "../api/client.ts";
import { ApiError } from "../api/errors.ts";
import type { ClientEvent, ServerEvent } from "./events.ts";

const KEY_SUBPROTOCOL = "openai-insecure-api-key.";

export class RealtimeSocket {
  onEvent: (event: ServerEvent) => void = () => undefined;
  onClose: (code: number, reason: string) => void = () => undefined;
  readonly #socket: WebSocket;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.onEvent(JSON.parse(String(data)) as ServerEvent);
    socket.onclose = ({ code, reason }) => this.onClose(code, reason);
  }

  /** `sessionId`: the session to go on with. Throws ApiError, which says why the server refused where it did. */
  static async open(client: Client, model: string, signal: AbortSignal, sessionId?: string): Promise<RealtimeSocket> {
    const query = sessionId ? { model, session_id: sessionId } : { model };
    const path = `/v1/realtime?${new URLSearchParams(query)}`;
    const protocols = ["realtime", ...(client.key ? [KEY_SUBPROTOCOL + client.key] : [])];
    let socket: WebSocket;
    try {
      socket = new WebSocket(path, protocols);
    } catch (error) {
      throw new ApiError(String(error), 401, "invalid_api_key"); // the key has letters that no header may have
    }
    const abort = () => socket.close();
    signal.addEventListener("abort", abort);
    const isOpen = await new Promise<boolean>((resolve) => {
      socket.onopen = () => resolve(true);
      socket.onclose = () => resolve(false);
    });
    signal.removeEventListener("abort", abort);
    signal.throwIfAborted();
    if (!isOpen) throw await whyRefused(client, path);
    return new RealtimeSocket(socket);
  }

  send(event: ClientEvent): void {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(event));
  }

  close(): void {
    this.onEvent = this.onClose = () => undefined;
    this.#socket.close(1000);
  }
}

/** Browsers hide why an upgrade was refused: the same request without one tells. */
async function whyRefused(client: Client, path: string): Promise<ApiError> {
  try {
    await request(client, path);
  } catch (error) {
    // 426 = all but the upgrade is well.
    if (error instanceof ApiError && error.status !== 426) return error;
  }
  return new ApiError("", 426, "upgrade_refused");
}
