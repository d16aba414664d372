// Requests to the gateway that serves the page, with the user's key.

import { ApiError, errorIn, errorOf, isAbort } from "./errors.ts";
import { eventsOf } from "./sse.ts";

export interface Client {
  key: string;
}

export async function request(client: Client, path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (client.key) headers.set("authorization", `Bearer ${client.key}`);
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers, credentials: "omit", cache: "no-store" });
  } catch (error) {
    throw isAbort(error) ? error : new ApiError(String(error), 0, "no_connection");
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

/** Yields the events of a streamed answer as JSON. Throws ApiError for one that is an error. */
export async function* streamed(client: Client, path: string, init: RequestInit): AsyncGenerator<unknown> {
  const response = await request(client, path, { ...init, method: "POST" });
  if (response.body === null) throw new ApiError("The response is empty.", response.status, "");
  try {
    for await (const data of eventsOf(response.body)) {
      if (data === "[DONE]") return;
      const event: unknown = JSON.parse(data);
      if (typeof event === "object" && event !== null && "error" in event) throw errorIn(event, response.status);
      yield event;
    }
  } catch (error) {
    throw error instanceof TypeError ? new ApiError(String(error), 0, "no_connection") : error;
  }
}
