// What went wrong with a request, as the page tells it.

export class ApiError extends Error {
  /** 0 = no response came. */
  readonly status: number;
  readonly code: string;

  constructor(message: string, status: number, code: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Makes an error of a response's body: OpenAI's form, or whatever a proxy in between has sent. */
export async function errorOf(response: Response): Promise<ApiError> {
  const text = await response.text().catch(() => "");
  try {
    return errorIn(JSON.parse(text), response.status);
  } catch {
    return new ApiError(text.slice(0, 300) || response.statusText, response.status, "");
  }
}

export function errorIn(body: unknown, status: number): ApiError {
  const error = (body as { error?: { message?: unknown; code?: unknown } } | null)?.error;
  return new ApiError(String(error?.message ?? "?"), status, String(error?.code ?? ""));
}

export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}
