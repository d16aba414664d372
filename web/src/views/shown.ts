import type { Client } from "../api/client.ts";
import type { Model } from "../api/models.ts";

/** What every mode is shown with. `voice` is "" where the model does not speak. */
export interface Shown {
  client: Client;
  model: Model;
  models: Model[];
  voice: string;
}
